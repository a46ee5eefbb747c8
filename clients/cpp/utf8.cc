#include "clients/cpp/utf8.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// How many bytes the character at the beginning of `text` has, by table 3-7 of
// the Unicode standard: no overlong forms, no surrogates, nothing past
// U+10FFFF. 0 if there is none.
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0};
  };
  const auto continues = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool legal = (first != 0xE0 || byte(1) >= 0xA0) &&
                       (first != 0xED || byte(1) <= 0x9F);
    return legal && continues(1) && continues(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool legal = (first != 0xF0 || byte(1) >= 0x90) &&
                       (first != 0xF4 || byte(1) <= 0x8F);
    return legal && continues(1) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

absl::Status CheckField(const FieldDescriptor& field, const std::string& text) {
  absl::Status status = CheckUtf8(text);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(
      absl::StrCat(field.name(), ": ", status.message()));
}

absl::Status CheckStringField(const Message& message,
                              const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  std::string scratch;
  if (!field.is_repeated()) {
    return CheckField(field,
                      reflection.GetStringReference(message, &field, &scratch));
  }
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    ENGRAM_RETURN_IF_ERROR(CheckField(
        field,
        reflection.GetRepeatedStringReference(message, &field, i, &scratch)));
  }
  return absl::OkStatus();
}

// Entries of maps are messages, too.
absl::Status CheckMessageField(const Message& message,
                               const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  if (!field.is_repeated()) {
    return CheckStrings(reflection.GetMessage(message, &field));
  }
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    ENGRAM_RETURN_IF_ERROR(
        CheckStrings(reflection.GetRepeatedMessage(message, &field, i)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckUtf8(absl::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = CharacterBytes(text.substr(at, 4));
    if (bytes == 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("byte %d (0x%02x) is not UTF-8", at + 1,
                          static_cast<uint8_t>(text[at])));
    }
    at += bytes;
  }
  return absl::OkStatus();
}

absl::Status CheckStrings(const Message& message) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->type() == FieldDescriptor::TYPE_STRING) {
      ENGRAM_RETURN_IF_ERROR(CheckStringField(message, *field));
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      ENGRAM_RETURN_IF_ERROR(CheckMessageField(message, *field));
    }
  }
  return absl::OkStatus();
}

}  // namespace engram::client

#include "model/quoted.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/unicode.h"

namespace engram {
namespace {

constexpr size_t kShownBytes = 64;

// The first bytes of it, whole characters only.
std::string_view Start(std::string_view text) {
  if (text.size() <= kShownBytes) return text;
  size_t length = kShownBytes;
  while (length > 0 && (static_cast<uint8_t>(text[length]) & 0xC0) == 0x80) {
    --length;
  }
  // Not UTF-8 at all: it is cut where it may be.
  return text.substr(0, length == 0 ? kShownBytes : length);
}

void AppendEscaped(std::string_view text, std::string* escaped) {
  while (!text.empty()) {
    const Utf8Start start = StartOfUtf8(text);
    const auto byte = static_cast<uint8_t>(text.front());
    if (start.kind != Utf8Start::kCharacter || byte < 0x20 || byte == 0x7F) {
      for (const char broken : text.substr(0, start.length)) {
        absl::StrAppendFormat(escaped, "\\x%02x", static_cast<uint8_t>(broken));
      }
    } else {
      if (byte == '"' || byte == '\\') escaped->push_back('\\');
      escaped->append(text.substr(0, start.length));
    }
    text.remove_prefix(start.length);
  }
}

}  // namespace

std::string Quoted(std::string_view foreign) {
  const std::string_view start = Start(foreign);
  std::string quoted = "\"";
  AppendEscaped(start, &quoted);
  if (start.size() == foreign.size()) return quoted + "\"";
  return absl::StrCat(quoted, "...\" (", foreign.size(), " bytes)");
}

std::string Shortened(std::string_view foreign) {
  const std::string_view start = Start(foreign);
  if (start.size() == foreign.size()) return std::string(foreign);
  return absl::StrCat(std::string(start), "... (", foreign.size(), " bytes)");
}

}  // namespace engram

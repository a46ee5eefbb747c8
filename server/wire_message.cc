#include "server/wire_message.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/slice.h>

#include <climits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/unicode.h"

namespace engram {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// As protobuf's own parser.
constexpr int kMaxDepth = 100;

// Walks bytes that could not be parsed to what is wrong with them.
class FaultFinder {
 public:
  explicit FaultFinder(const std::string& bytes)
      : input_(reinterpret_cast<const uint8_t*>(bytes.data()),
               static_cast<int>(bytes.size())),
        size_(bytes.size()) {}

  // What is wrong, or nothing if all of it could be read.
  std::string Find(const Descriptor& type) {
    return FindIn(type, std::string(type.name()), kMaxDepth);
  }

 private:
  std::string FindIn(const Descriptor& type, const std::string& path,
                     int depth) {
    while (const uint32_t tag = input_.ReadTag()) {
      const FieldDescriptor* field =
          type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
      const std::string name =
          field == nullptr ? path : absl::StrCat(path, ".", field->name());
      std::string fault;
      if (field != nullptr && WireFormatLite::GetTagWireType(tag) ==
                                  WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
        fault = FindInField(*field, name, depth);
      } else if (!WireFormatLite::SkipField(&input_, tag)) {
        fault = Damaged(name);
      }
      if (!fault.empty()) return fault;
    }
    return input_.ConsumedEntireMessage() ? "" : Damaged(path);
  }

  std::string FindInField(const FieldDescriptor& field, const std::string& name,
                          int depth) {
    uint32_t length = 0;
    if (!input_.ReadVarint32(&length) || length > INT_MAX) return Damaged(name);
    const int begin = input_.CurrentPosition();
    if (length > size_ - static_cast<size_t>(begin)) {
      return absl::StrCat(name, " says that it has ", length, " bytes, but ",
                          size_ - static_cast<size_t>(begin), " follow");
    }
    if (field.type() == FieldDescriptor::TYPE_MESSAGE && depth > 0) {
      const auto limit = input_.PushLimit(static_cast<int>(length));
      std::string fault = FindIn(*field.message_type(), name, depth - 1);
      input_.PopLimit(limit);
      return fault;
    }
    std::string content;
    if (!input_.ReadString(&content, static_cast<int>(length))) {
      return Damaged(name);
    }
    if (field.type() != FieldDescriptor::TYPE_STRING) return "";
    const size_t invalid = FindInvalidUtf8(content);
    if (invalid == std::string::npos) return "";
    return absl::StrCat(name, " is not UTF-8 at byte ", invalid);
  }

  std::string Damaged(const std::string& name) const {
    return absl::StrCat(name, " is damaged near byte ",
                        input_.CurrentPosition(), " of ", size_);
  }

  CodedInputStream input_;
  const size_t size_;
};

std::string Flatten(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

}  // namespace

absl::Status ParseMessage(const grpc::ByteBuffer& bytes,
                          google::protobuf::Message* message) {
  const std::string name(message->GetDescriptor()->full_name());
  if (!bytes.Valid()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the call came without its ", name));
  }
  grpc::ByteBuffer buffer = bytes;  // shares them
  grpc::ProtoBufferReader reader(&buffer);
  if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) {
    return absl::OkStatus();
  }
  const std::string fault =
      FaultFinder(Flatten(bytes)).Find(*message->GetDescriptor());
  return absl::InvalidArgumentError(
      absl::StrCat("the message is no ", name, ": ",
                   fault.empty() ? "it is nested too deeply" : fault));
}

grpc::ByteBuffer TakeBytes(const grpc::ByteBuffer* message) {
  grpc::ByteBuffer bytes = *message;
  const_cast<grpc::ByteBuffer*>(message)->Clear();
  return bytes;
}

absl::Status SerializeMessage(const google::protobuf::Message& message,
                              grpc::ByteBuffer* bytes) {
  const size_t size = message.ByteSizeLong();
  if (size > INT_MAX) {
    return absl::InternalError(absl::StrCat(
        "the answer has ", size, " bytes, a message at most ", INT_MAX));
  }
  grpc::Slice slice(size);
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  *bytes = grpc::ByteBuffer(&slice, 1);
  return absl::OkStatus();
}

}  // namespace engram

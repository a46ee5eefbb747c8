#include "clients/cpp/json.h"

#include <google/protobuf/util/json_util.h>

#include "absl/strings/str_cat.h"

namespace engram::client {

absl::StatusOr<std::string> ToJsonLine(
    const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string line;
  const auto status =
      google::protobuf::util::MessageToJsonString(message, &line, options);
  if (status.ok()) return line;
  return absl::InternalError(
      absl::StrCat("the server's answer cannot be told as JSON: ",
                   std::string(status.message())));
}

}  // namespace engram::client

#include "clients/cpp/json.h"

#include <google/protobuf/util/json_util.h>

namespace engram {

std::string ToJsonLine(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string line;
  // Fails for malformed google.protobuf.Any and the like, which engram.v1 does
  // not use.
  if (!google::protobuf::util::MessageToJsonString(message, &line, options)
           .ok()) {
    return "{}";
  }
  return line;
}

}  // namespace engram

// Messages as JSON for scripts.
#pragma once

#include <google/protobuf/message.h>

#include <string>

#include "absl/status/statusor.h"

namespace engram::client {

// One line of protobuf JSON, without the newline. Fields have the names of the
// .proto files; those without presence are there even if they are zero or
// empty, so that `index` of the first token can be read like that of any other;
// those declared `optional` are there only if they are set. 64-bit integers are
// strings and bytes are base64, as protobuf JSON has it. Errors: INTERNAL if
// the message has no JSON, such as one with a time after the year 9999.
absl::StatusOr<std::string> ToJsonLine(
    const google::protobuf::Message& message);

}  // namespace engram::client

// Strings that protobuf can carry: a request with another one would be refused
// by gRPC before Engram sees it.
#pragma once

#include <google/protobuf/message.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace engram::client {

// Whether `text` is UTF-8. Errors: INVALID_ARGUMENT with the first byte that is
// not: "byte 3 (0xff) is not UTF-8", counted from 1.
absl::Status CheckUtf8(absl::string_view text);

// The same of every string in `message`, with the name of its field.
absl::Status CheckStrings(const google::protobuf::Message& message);

}  // namespace engram::client

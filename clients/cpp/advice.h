// What somebody who reads an error of a call may do about it.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace engram::client {

// One line without its end, or "" if the error says it all. `program` is what
// --help is asked of.
std::string Advice(const absl::Status& status, absl::string_view program,
                   absl::string_view server);

}  // namespace engram::client

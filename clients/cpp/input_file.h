// Files of text that a user names.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace engram::client {

// Far more than any prompt, and a bound on what /dev/zero takes.
inline constexpr int64_t kInputBytesMax = int64_t{256} << 20;

// The whole of a file, or of standard input for "-". Errors name the file:
// INVALID_ARGUMENT if it cannot be read, is a directory, has more than
// kInputBytesMax bytes or is not UTF-8.
absl::StatusOr<std::string> ReadTextFile(const std::string& name);

// The same of a file whose bytes may be anything.
absl::StatusOr<std::string> ReadFile(const std::string& name);

}  // namespace engram::client

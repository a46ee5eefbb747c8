// The file of a key: one line, and nobody else's business. What is said about
// it never repeats what it holds.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace engram::client {

// The key, without the end of its line. INVALID_ARGUMENT names the file and
// says what is wrong: it cannot be read, is empty, has several lines, more than
// 4096 bytes or a character that no key has.
absl::StatusOr<std::string> ReadApiKey(const std::string& file);

// What to warn of, in one line: others than its owner can read the file. "" if
// there is nothing, or no such file.
std::string ApiKeyWarning(const std::string& file);

}  // namespace engram::client

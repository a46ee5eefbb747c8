// Files that a user names to be read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

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

// A file of any length, part by part. Thread-compatible. Errors as above.
class InputFile {
 public:
  static absl::StatusOr<std::unique_ptr<InputFile>> Open(
      const std::string& name);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // The next bytes, at most so many; none at the end.
  absl::StatusOr<std::string> Next(size_t most);

 private:
  InputFile(std::string name, int descriptor)
      : name_(std::move(name)), descriptor_(descriptor) {}

  const std::string name_;
  const int descriptor_;
};

}  // namespace engram::client

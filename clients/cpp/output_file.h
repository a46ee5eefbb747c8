// Files that a user names to be written: there as a whole, or not at all.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace engram::client {

// Thread-compatible. Errors name the file: INVALID_ARGUMENT.
class OutputFile {
 public:
  // A file that only its owner may read, for states hold what was said. It is
  // written beside the name, as NAME.part, and replaces what is there when it
  // is whole. "-": standard output.
  static absl::StatusOr<std::unique_ptr<OutputFile>> Create(
      const std::string& name);
  // What is not whole is removed.
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  absl::Status Append(absl::string_view bytes);
  // Once: it is whole.
  absl::Status Commit();

 private:
  OutputFile(std::string name, int descriptor)
      : name_(std::move(name)), descriptor_(descriptor) {}
  std::string PartName() const { return name_ + ".part"; }

  const std::string name_;
  int descriptor_ = -1;  // -1: standard output, or committed
};

}  // namespace engram::client

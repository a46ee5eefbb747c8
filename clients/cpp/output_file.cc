#include "clients/cpp/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tools/shell/standard_output.h"

namespace engram::client {
namespace {

absl::Status CannotWrite(const std::string& name) {
  return absl::InvalidArgumentError(absl::StrCat("cannot write '",
                                                 absl::Utf8SafeCHexEscape(name),
                                                 "': ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputFile>> OutputFile::Create(
    const std::string& name) {
  std::unique_ptr<OutputFile> file(new OutputFile(name, -1));
  if (name == "-") return file;
  file->descriptor_ = open(file->PartName().c_str(),
                           O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file->descriptor_ < 0) return CannotWrite(file->PartName());
  return file;
}

OutputFile::~OutputFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(PartName().c_str());
}

absl::Status OutputFile::Append(absl::string_view bytes) {
  if (name_ == "-") {
    Print(bytes);
    return PrintStatus();
  }
  while (!bytes.empty()) {
    const ssize_t count = write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return CannotWrite(PartName());
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Commit() {
  if (name_ == "-") return absl::OkStatus();
  if (fsync(descriptor_) != 0 && errno != EINVAL) {
    return CannotWrite(PartName());
  }
  if (std::rename(PartName().c_str(), name_.c_str()) != 0) {
    return CannotWrite(name_);
  }
  close(std::exchange(descriptor_, -1));
  return absl::OkStatus();
}

}  // namespace engram::client

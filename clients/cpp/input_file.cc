#include "clients/cpp/input_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "clients/cpp/utf8.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

absl::Status CannotRead(const std::string& name, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "cannot read ",
      name == "-" ? "standard input"
                  : absl::StrCat("'", absl::Utf8SafeCHexEscape(name), "'"),
      ": ", why));
}

}  // namespace

absl::StatusOr<std::unique_ptr<InputFile>> InputFile::Open(
    const std::string& name) {
  const int descriptor =
      name == "-" ? STDIN_FILENO : open(name.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return CannotRead(name, std::strerror(errno));
  return std::unique_ptr<InputFile>(new InputFile(name, descriptor));
}

InputFile::~InputFile() {
  if (descriptor_ != STDIN_FILENO) close(descriptor_);
}

absl::StatusOr<std::string> InputFile::Next(size_t most) {
  std::string part(most, '\0');
  while (true) {
    const ssize_t count = read(descriptor_, part.data(), part.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return CannotRead(name_, std::strerror(errno));
    part.resize(static_cast<size_t>(count));
    return part;
  }
}

absl::StatusOr<std::string> ReadFile(const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<InputFile> file,
                          InputFile::Open(name));
  std::string content;
  while (true) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string part, file->Next(1 << 16));
    if (part.empty()) return content;
    content += part;
    if (static_cast<int64_t>(content.size()) > kInputBytesMax) {
      return CannotRead(
          name, absl::StrCat("it has more than ", kInputBytesMax, " bytes"));
    }
  }
}

absl::StatusOr<std::string> ReadTextFile(const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(std::string content, ReadFile(name));
  const absl::Status status = CheckUtf8(content);
  if (!status.ok()) return CannotRead(name, status.message());
  return content;
}

}  // namespace engram::client

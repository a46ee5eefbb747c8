#include "clients/cpp/input_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/cleanup/cleanup.h"
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

absl::StatusOr<std::string> ReadAll(int descriptor, const std::string& name) {
  std::string content;
  std::vector<char> buffer(1 << 16);
  while (true) {
    const ssize_t count = read(descriptor, buffer.data(), buffer.size());
    if (count == 0) return content;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return CannotRead(name, std::strerror(errno));
    content.append(buffer.data(), static_cast<size_t>(count));
    if (static_cast<int64_t>(content.size()) > kInputBytesMax) {
      return CannotRead(
          name, absl::StrCat("it has more than ", kInputBytesMax, " bytes"));
    }
  }
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& name) {
  const int descriptor =
      name == "-" ? STDIN_FILENO : open(name.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return CannotRead(name, std::strerror(errno));
  absl::Cleanup close_file = [&] {
    if (descriptor != STDIN_FILENO) close(descriptor);
  };
  return ReadAll(descriptor, name);
}

absl::StatusOr<std::string> ReadTextFile(const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(std::string content, ReadFile(name));
  const absl::Status status = CheckUtf8(content);
  if (!status.ok()) return CannotRead(name, status.message());
  return content;
}

}  // namespace engram::client

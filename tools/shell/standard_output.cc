#include "tools/shell/standard_output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <string>

#include "absl/base/attributes.h"
#include "absl/strings/str_cat.h"
#include "tools/shell/write_all.h"

namespace engram {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitBrokenPipe = 128 + SIGPIPE;

ABSL_CONST_INIT bool printed = false;
ABSL_CONST_INIT int first_error = 0;  // An errno.

// If a standard descriptor is closed, the next file or connection would get its
// number, and what is printed would be written into it.
void OccupyStandardDescriptors() {
  for (int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(descriptor, F_GETFD) >= 0) continue;
    // Reading from standard input and writing to the others fails as before.
    const int opened =
        open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    if (opened >= 0 && opened != descriptor) {
      dup2(opened, descriptor);
      close(opened);
    }
  }
}

}  // namespace

void Print(absl::string_view text) {
  if (first_error != 0 || text.empty()) return;
  printed = true;
  std::fflush(stdout);  // What others have printed by stdio comes first.
  first_error = WriteAll(STDOUT_FILENO, text);
}

absl::Status PrintStatus() {
  if (first_error == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(first_error, "cannot write to standard output");
}

int RunProgram(absl::string_view name, const std::function<int()>& program) {
  OccupyStandardDescriptors();
  const int exit_code = program();
  if (std::fflush(stdout) != 0 && first_error == 0) first_error = errno;
  // Some file systems tell only now that they had no room.
  if (printed && first_error == 0 && close(STDOUT_FILENO) != 0) {
    first_error = errno;
  }
  if (first_error == 0) return exit_code;
  if (first_error == EPIPE) return kExitBrokenPipe;
  const std::string message =
      absl::StrCat(name, ": ", PrintStatus().message(), "\n");
  std::fputs(message.c_str(), stderr);
  return exit_code == 0 ? kExitFailed : exit_code;
}

}  // namespace engram

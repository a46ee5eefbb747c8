#include "clients/cpp/progress_display.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_format.h"

namespace engram::client {

ProgressDisplay::ProgressDisplay() : on_terminal_(isatty(STDERR_FILENO)) {}

void ProgressDisplay::Show(const std::string& line) {
  absl::FPrintF(stderr, "%s%s%s", on_terminal_ ? "\r\033[K" : "", line,
                on_terminal_ ? "" : "\n");
  std::fflush(stderr);
  shown_ = true;
}

void ProgressDisplay::End() {
  if (on_terminal_ && shown_) absl::FPrintF(stderr, "\n");
  shown_ = false;
}

absl::Duration ProgressDisplay::interval() const {
  return absl::Seconds(on_terminal_ ? 1 : 5);
}

}  // namespace engram::client

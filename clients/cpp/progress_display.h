// ProgressDisplay: progress on standard error, on a terminal in one line that
// changes, elsewhere a line now and then.
#pragma once

#include <string>

#include "absl/time/time.h"

namespace engram::client {

// Thread-compatible.
class ProgressDisplay {
 public:
  ProgressDisplay();

  void Show(const std::string& line);
  // The line on the terminal stays, and what is shown next comes below it.
  void End();
  // How often to show something.
  absl::Duration interval() const;

 private:
  const bool on_terminal_;
  bool shown_ = false;
};

}  // namespace engram::client

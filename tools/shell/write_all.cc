#include "tools/shell/write_all.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

namespace engram {

int WriteAll(int descriptor, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    // What was written in part is tried again, for the reason.
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {
      // Such as a terminal that somebody who shares it has made non-blocking.
      pollfd writable = {descriptor, POLLOUT, 0};
      poll(&writable, 1, /*timeout=*/-1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

}  // namespace engram

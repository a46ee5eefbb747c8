#include "server/log_writer.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/status.h"

namespace engram {
namespace {

// Of a string in the deque, and of its allocation.
constexpr size_t kBytesPerLine = sizeof(std::string) + 32;

// A pipe that poll() calls writable takes this much without blocking.
constexpr size_t kWriteBytes = PIPE_BUF;

}  // namespace

LogWriter::LogWriter(int descriptor, size_t max_bytes, TellDropped tell_dropped)
    : descriptor_(descriptor),
      stop_(eventfd(0, EFD_CLOEXEC)),
      tell_dropped_(std::move(tell_dropped)),
      max_bytes_(max_bytes) {
  ENGRAM_CHECK(stop_ >= 0);
  thread_ = std::thread([this] { Run(); });
}

LogWriter::~LogWriter() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    UpdateFlags();
  }
  eventfd_write(stop_, 1);
  thread_.join();
  close(stop_);
}

void LogWriter::Write(std::string line) {
  line.push_back('\n');
  absl::MutexLock lock(&mutex_);
  const size_t bytes = line.size() + kBytesPerLine;
  // While some are dropped, later ones are too: the count stands where they
  // would have been.
  if (untold_ > 0 || bytes_ + bytes > max_bytes_) {
    ++dropped_;
    ++untold_;
  } else {
    bytes_ += bytes;
    lines_.push_back(std::move(line));
  }
  UpdateFlags();
}

bool LogWriter::Flush(absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&written_), limit);
}

void LogWriter::SetMaxBytes(size_t max_bytes) {
  absl::MutexLock lock(&mutex_);
  max_bytes_ = max_bytes;
}

int64_t LogWriter::dropped() const {
  absl::MutexLock lock(&mutex_);
  return dropped_;
}

void LogWriter::UpdateFlags() {
  has_work_ = stopping_ || !lines_.empty() || untold_ > 0;
  written_ = lines_.empty() && untold_ == 0 && !writing_;
}

void LogWriter::Run() {
  while (true) {
    const Chunk chunk = Take();
    if (chunk.text.empty() || !WriteOut(chunk)) return;
  }
}

LogWriter::Chunk LogWriter::Take() {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  UpdateFlags();
  mutex_.Await(absl::Condition(&has_work_));
  Chunk chunk;
  if (stopping_) return chunk;
  writing_ = true;
  while (!lines_.empty() && chunk.text.size() < kWriteBytes) {
    bytes_ -= lines_.front().size() + kBytesPerLine;
    chunk.text += lines_.front();
    ++chunk.lines;
    lines_.pop_front();
  }
  if (lines_.empty() && untold_ > 0) {
    absl::StrAppend(&chunk.text, tell_dropped_(std::exchange(untold_, 0)),
                    "\n");
  }
  UpdateFlags();
  return chunk;
}

bool LogWriter::WriteOut(const Chunk& chunk) {
  absl::string_view left = chunk.text;
  while (!left.empty()) {
    if (!AwaitRoom()) return false;
    const ssize_t count =
        write(descriptor_, left.data(), std::min(left.size(), kWriteBytes));
    if (count >= 0) {
      left.remove_prefix(static_cast<size_t>(count));
    } else if (errno != EINTR && errno != EAGAIN) {
      // Closed at its other end, a full disk: there is nobody to tell.
      absl::MutexLock lock(&mutex_);
      dropped_ += chunk.lines;
      return true;
    }
  }
  return true;
}

bool LogWriter::AwaitRoom() {
  pollfd waited[] = {{descriptor_, POLLOUT, 0}, {stop_, POLLIN, 0}};
  while (poll(waited, 2, -1) < 0 && errno == EINTR) {
  }
  return waited[1].revents == 0;
}

}  // namespace engram

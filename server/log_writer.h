// LogWriter: lines for a descriptor that may be slow or stuck, from threads
// that must not be.
//
// A bounded queue and one thread that writes. What does not fit is dropped and
// counted, and a line says how many were when there is room again. The
// descriptor may be shared with other processes, so that it is never made
// non-blocking: the thread writes when poll() says that it can.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace engram {

class LogWriter {
 public:
  // Makes the line that tells of `lines` dropped ones, without a newline.
  using TellDropped = std::function<std::string(int64_t lines)>;

  // Does not own `descriptor`. `max_bytes` bounds what is queued, each line
  // counted with what keeps it.
  LogWriter(int descriptor, size_t max_bytes, TellDropped tell_dropped);
  // Gives up what is not written.
  ~LogWriter();

  // Takes a line, which has no newline, or drops it. Never waits for the
  // descriptor.
  void Write(std::string line);
  // Waits until all that was taken is written, or `limit` has passed: then
  // false.
  bool Flush(absl::Duration limit);

  void SetMaxBytes(size_t max_bytes);
  // Lines that did not fit, and those that the descriptor refused.
  int64_t dropped() const;

 private:
  struct Chunk {
    std::string text;
    int64_t lines = 0;
  };

  void Run();
  void UpdateFlags() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Lines of about a page. Empty: the writer ends.
  Chunk Take();
  // False: the writer ends.
  bool WriteOut(const Chunk& chunk);
  // Waits until the descriptor takes bytes. False: the writer ends.
  bool AwaitRoom();

  const int descriptor_;
  const int stop_;  // an eventfd: readable when the writer is to end
  const TellDropped tell_dropped_;

  mutable absl::Mutex mutex_;
  size_t max_bytes_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t untold_ ABSL_GUARDED_BY(mutex_) = 0;  // of them
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // What is waited for, made anew by UpdateFlags: plain flags, whose reads
  // ThreadSanitizer does not misjudge.
  bool has_work_ ABSL_GUARDED_BY(mutex_) = false;
  bool written_ ABSL_GUARDED_BY(mutex_) = true;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace engram

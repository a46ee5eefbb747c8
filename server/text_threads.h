// TextThreads: where long texts are tokenised. A text of megabytes takes
// seconds, and gRPC has few threads: one that computes keeps every other call
// waiting, health checks included.
//
// Thread-safe. Tasks run in the order in which they came.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace engram {

class TextThreads {
 public:
  TextThreads(int threads, int max_queue);
  // Runs what is still queued.
  ~TextThreads();

  // Runs `task` at once, in the caller's thread, if it is about a text of few
  // bytes; else later, in one of ours. UNAVAILABLE if the queue is full: then
  // it is not run.
  absl::Status Run(size_t text_bytes, std::function<void()> task);

 private:
  void RunQueued();

  const size_t max_queue_;

  absl::Mutex mutex_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // stopping_ or a task: what a thread waits for.
  bool has_work_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace engram

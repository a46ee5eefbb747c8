// Delivery: tells readers that their streams have something for them, on
// threads of its own. Whoever reads turns tokens into text, writes messages and
// gives them to gRPC, which for many streams takes as long as a step of a small
// model: meanwhile the engine runs the next one.
//
// A stream's events stay in its TokenStream until they are read, so that their
// order and its room do not depend on when, or on which thread, the reader is
// told. A stream is here at most once: until its reader has looked, there is
// nothing to tell it again.
//
// Thread-safe.
#pragma once

#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/token_stream.h"

namespace engram {

class Delivery {
 public:
  using Streams = std::vector<std::shared_ptr<TokenStream>>;

  // No threads: Add tells readers itself. Throws std::system_error if the
  // machine has no more threads.
  explicit Delivery(int threads);
  // For tests: nobody is told but by TellNext.
  struct ByHand {};
  explicit Delivery(ByHand) : is_by_hand_(true) {}
  // Tells who is left, by Finish.
  ~Delivery();

  // The readers of `streams` are to be told, the first ones first.
  void Add(Streams streams);

  // Tells the next one. False: there is none.
  bool TellNext();

  // Tells all that were added, and ends the threads. Nothing is added later.
  void Finish();

 private:
  struct NotStarted {};
  explicit Delivery(NotStarted) : is_by_hand_(false) {}

  void Run();
  std::shared_ptr<TokenStream> Take() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateHasWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    has_work_ = is_ending_ || !streams_.empty();
  }

  const bool is_by_hand_;

  absl::Mutex mutex_;
  std::deque<std::shared_ptr<TokenStream>> streams_ ABSL_GUARDED_BY(mutex_);
  bool is_ending_ ABSL_GUARDED_BY(mutex_) = false;
  // What threads wait for: a plain flag, whose reads ThreadSanitizer does not
  // misjudge.
  bool has_work_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace engram

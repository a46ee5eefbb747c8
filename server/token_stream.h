// TokenStream: the bounded one-to-one hand-over of a request's events from the
// engine to its reader, and of the reader's cancellation back.
//
// The engine looks at HasRoom() before it runs a sequence: a full stream pauses
// the sequence and never blocks the engine.
//
// Thread-safe: one producer (engine), one consumer (the call's reactor), and
// anyone may Cancel.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/request.h"

namespace engram {

class TokenStream {
 public:
  // Room for `capacity` tokens; Started and Completed always fit.
  // `wake_engine` is called when the reader makes room in a full stream and
  // when it cancels, without locks held.
  TokenStream(int capacity, std::function<void()> wake_engine);

  // --- Engine.
  bool HasRoom() const ABSL_LOCKS_EXCLUDED(mutex_);
  // At least half of its room is free.
  bool HasAmpleRoom() const ABSL_LOCKS_EXCLUDED(mutex_);
  void Push(Event event) ABSL_LOCKS_EXCLUDED(mutex_);
  // The last call: no event follows. `status` is the RPC's.
  void End(absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);
  // How many the reader has taken so far.
  int64_t events_read() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Why the reader wants no more, once it said so.
  std::optional<absl::Status> cancelled() const ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Reader.
  enum class State { kEvent, kEmpty, kEnd };
  // kEvent: the next event; kEmpty: none yet, `ready` will be called; kEnd:
  // there is none to come, and `status` says how it ended.
  State Pop(Event* event, absl::Status* status) ABSL_LOCKS_EXCLUDED(mutex_);
  // Called after each Push or End that follows a kEmpty, on the engine's
  // thread, without locks held. Set once, before the first Pop.
  void SetReady(std::function<void()> ready) ABSL_LOCKS_EXCLUDED(mutex_);

  // The first reason stays.
  void Cancel(absl::Status reason) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void NotifyReader() ABSL_LOCKS_EXCLUDED(mutex_);

  const size_t capacity_;
  const std::function<void()> wake_engine_;

  mutable absl::Mutex mutex_;
  std::deque<Event> events_ ABSL_GUARDED_BY(mutex_);
  int64_t events_read_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> cancelled_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> ready_ ABSL_GUARDED_BY(mutex_);
  bool reader_waits_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace engram

// TokenStream: the bounded one-to-one hand-over of a request's events from the
// engine to its reader, and of the reader's cancellation back.
//
// The engine hands over tokens as the model gives them; they become text where
// they are read, so that no step waits for it (server/turn_text.h has the
// exception). It looks at HasRoom() before it runs a sequence: a full stream
// pauses the sequence and never blocks the engine.
//
// Thread-safe: one producer (engine), one consumer (the call's reactor), and
// anyone may Cancel.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "model/tokenizer.h"
#include "server/request.h"
#include "server/turn_text.h"

namespace engram {

class TokenStream {
 public:
  // Room for `capacity` tokens; Started and Completed always fit.
  // `wake_engine` is called when the reader makes room in a full stream and
  // when it cancels, without locks held. `tokenizer` may be nullptr: then
  // there is no text.
  TokenStream(int capacity, std::function<void()> wake_engine,
              const Tokenizer* tokenizer = nullptr);

  // What tokens without a piece are read into, and Completed gets the tail of.
  // Once, before the first Pop; never for a stream whose tokens all have their
  // pieces.
  void SetText(std::unique_ptr<TurnText> text) { text_ = std::move(text); }

  // --- Engine.
  bool HasRoom(size_t tokens = 1) const ABSL_LOCKS_EXCLUDED(mutex_);
  // At least half of its room is free.
  bool HasAmpleRoom() const ABSL_LOCKS_EXCLUDED(mutex_);
  using Item = std::variant<StartedEvent, SampledToken, CompletedEvent>;
  // True: the reader waits for it, and TellReader must follow.
  [[nodiscard]] bool Push(Item item) ABSL_LOCKS_EXCLUDED(mutex_);
  // The last call: nothing is pushed after it. `status` is the RPC's, and
  // `figures` are what the turn had come to, told or not. As Push.
  [[nodiscard]] bool End(absl::Status status, const TurnFigures& figures = {})
      ABSL_LOCKS_EXCLUDED(mutex_);
  // How many the reader has taken so far.
  int64_t events_read() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Why the reader wants no more, once it said so.
  std::optional<absl::Status> cancelled() const ABSL_LOCKS_EXCLUDED(mutex_);

  // On any thread: calls `ready`, without locks held.
  void TellReader() ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Reader.
  enum class State { kEvent, kEmpty, kEnd };
  // kEvent: the next event; kEmpty: none yet, `ready` will be called; kEnd:
  // there is none to come, and `status` says how it ended.
  State Pop(Event* event, absl::Status* status) ABSL_LOCKS_EXCLUDED(mutex_);
  // Those of End; REQUIRES: kEnd.
  TurnFigures figures() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Called once after each kEmpty, when there is something. Set once, before
  // the first Pop.
  void SetReady(std::function<void()> ready) ABSL_LOCKS_EXCLUDED(mutex_);

  // The first reason stays.
  void Cancel(absl::Status reason) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Whether the reader is to be told, who then waits no more.
  bool ReaderWaits() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Event Told(Item item);

  const size_t capacity_;
  const std::function<void()> wake_engine_;
  const Tokenizer* const tokenizer_;
  std::unique_ptr<TurnText> text_;  // reader's

  mutable absl::Mutex mutex_;
  std::deque<Item> items_ ABSL_GUARDED_BY(mutex_);
  int64_t events_read_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  TurnFigures figures_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> cancelled_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> ready_ ABSL_GUARDED_BY(mutex_);
  bool reader_waits_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace engram

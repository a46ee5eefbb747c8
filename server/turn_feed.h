// TurnFeed: the events of one request for whoever answers it, whether they come
// from the engine or from the record of a turn that has committed.
//
// Thread-safe like TokenStream: one reader; anyone may Cancel.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "server/replay.h"
#include "server/request.h"
#include "server/served_model.h"
#include "server/token_stream.h"

namespace engram {

class TurnFeed {
 public:
  // Submits to `model`'s admission; refusals and replays are reported to its
  // on_end. Errors: Admission::Submit, Replay::Create.
  static absl::StatusOr<std::unique_ptr<TurnFeed>> Submit(ServedModel* model,
                                                          Request request);

  using State = TokenStream::State;
  State Pop(Event* event, absl::Status* status);
  // What the turn had come to when it ended otherwise than by Completed; zeros
  // for a replay. REQUIRES: Pop said kEnd.
  TurnFigures figures() const;
  // As TokenStream::SetReady.
  void SetReady(std::function<void()> ready);
  void Cancel(absl::Status reason);
  // The same, and from now on Pop passes over events: what is still awaited is
  // the end.
  void Abandon(absl::Status reason);

 private:
  TurnFeed() = default;

  static absl::StatusOr<std::unique_ptr<TurnFeed>> Admit(ServedModel* model,
                                                         Request request);
  State PopAny(Event* event, absl::Status* status);

  // One of the two.
  std::shared_ptr<TokenStream> stream_;
  std::unique_ptr<Replay> replay_;
  std::atomic<bool> abandoned_ = false;
};

}  // namespace engram

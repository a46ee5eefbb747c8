#include "server/turn_feed.h"

#include <utility>
#include <variant>

#include "kernels/status.h"

namespace engram {

absl::StatusOr<std::unique_ptr<TurnFeed>> TurnFeed::Submit(ServedModel* model,
                                                           Request request) {
  RequestSummary summary = SummaryOf(model->name, request);
  absl::StatusOr<std::unique_ptr<TurnFeed>> feed =
      Admit(model, std::move(request));
  if (!feed.ok()) {
    summary.handling = RequestHandling::kRefused;
    summary.status = feed.status();
    model->on_end(summary);
  } else if ((*feed)->replay_ != nullptr) {
    // What runs is reported by the engine.
    const CompletedEvent& completed = (*feed)->replay_->record().completed;
    summary.handling = RequestHandling::kReplayed;
    summary.finish_reason = FinishReasonName(completed.finish_reason);
    summary.usage = completed.usage;
    summary.timing = completed.timing;
    model->on_end(summary);
  }
  return feed;
}

absl::StatusOr<std::unique_ptr<TurnFeed>> TurnFeed::Admit(ServedModel* model,
                                                          Request request) {
  // A replay needs what admission consumes.
  Request repeat;
  repeat.stopping = request.stopping;
  repeat.received = request.received;
  ENGRAM_ASSIGN_OR_RETURN(Admission::Admitted admitted,
                          model->admission->Submit(std::move(request)));
  std::unique_ptr<TurnFeed> feed(new TurnFeed);
  if (auto* stream = std::get_if<std::shared_ptr<TokenStream>>(&admitted)) {
    feed->stream_ = std::move(*stream);
    return feed;
  }
  ENGRAM_ASSIGN_OR_RETURN(
      feed->replay_,
      Replay::Create(std::get<std::shared_ptr<const TurnRecord>>(admitted),
                     repeat, model->tokenizer.get()));
  return feed;
}

TurnFeed::State TurnFeed::Pop(Event* event, absl::Status* status) {
  State state = PopAny(event, status);
  while (abandoned_ && state == State::kEvent) state = PopAny(event, status);
  return state;
}

TurnFeed::State TurnFeed::PopAny(Event* event, absl::Status* status) {
  if (stream_ != nullptr) return stream_->Pop(event, status);
  if (replay_->Next(event)) return State::kEvent;
  *status = replay_->status();
  return State::kEnd;
}

TurnFigures TurnFeed::figures() const {
  return stream_ != nullptr ? stream_->figures() : TurnFigures();
}

void TurnFeed::SetReady(std::function<void()> ready) {
  if (stream_ != nullptr) stream_->SetReady(std::move(ready));
}

void TurnFeed::Cancel(absl::Status reason) {
  if (stream_ != nullptr) stream_->Cancel(std::move(reason));
}

void TurnFeed::Abandon(absl::Status reason) {
  abandoned_ = true;
  Cancel(std::move(reason));
}

}  // namespace engram

#include "server/sequence_ends.h"

#include <memory>
#include <utility>

namespace engram {
namespace {

// Ends from outside, after which a fragment may be kept.
bool MayKeepPartial(absl::StatusCode code) {
  return code == absl::StatusCode::kCancelled ||
         code == absl::StatusCode::kDeadlineExceeded ||
         code == absl::StatusCode::kUnavailable;
}

absl::Duration Between(absl::Time from, absl::Time to) {
  if (from == absl::InfinitePast() || to < from) return absl::ZeroDuration();
  return to - from;
}

}  // namespace

StartedEvent MakeStarted(const Sequence& sequence) {
  StartedEvent started;
  started.session_id = sequence.request.session_id;
  started.request_id = sequence.request.request_id;
  started.version = sequence.start.version;
  started.position = sequence.start.position;
  started.cached_tokens = sequence.start.position;
  started.seed = static_cast<int64_t>(sequence.request.sampling.seed);
  return started;
}

SequenceEnds::SequenceEnds(std::string model, StateKeeper* states,
                           SessionStore* sessions, EngineOutbox* outbox,
                           Clock* clock,
                           std::function<void(const RequestSummary&)> on_end)
    : model_(std::move(model)),
      states_(*states),
      sessions_(*sessions),
      outbox_(*outbox),
      clock_(*clock),
      on_end_(std::move(on_end)) {}

CompletedEvent SequenceEnds::MakeCompleted(const Sequence& sequence,
                                           FinishReason reason,
                                           absl::Time now) const {
  CompletedEvent completed;
  completed.finish_reason = reason;
  completed.version = sequence.start.version + (sequence.is_turn() ? 1 : 0);
  completed.position = sequence.start.position + sequence.position;
  completed.usage.prompt_tokens =
      static_cast<int64_t>(sequence.request.prompt.size());
  completed.usage.cached_tokens = sequence.start.position;
  completed.usage.generated_tokens =
      static_cast<int64_t>(sequence.generated.size());
  const bool started = sequence.start_time != absl::InfinitePast();
  const bool prefilled = sequence.prefill_end != absl::InfinitePast();
  completed.timing.queue =
      Between(sequence.arrival, started ? sequence.start_time : now);
  completed.timing.prefill =
      Between(sequence.start_time, prefilled ? sequence.prefill_end : now);
  completed.timing.decode = Between(sequence.prefill_end, now);
  return completed;
}

bool SequenceEnds::CommitTurn(Sequence* sequence,
                              const CompletedEvent& completed) {
  CommittedTurns turns;
  turns.version = completed.version;
  turns.position = completed.position;
  if (!sequence->generated.empty()) turns.pending = sequence->generated.back();
  turns.seen = std::make_shared<const TokenSet>(sequence->seen);

  TurnRecord record;
  record.request_id = sequence->request.request_id;
  record.identity = sequence->request.identity;
  record.started = MakeStarted(*sequence);
  record.tokens = sequence->generated;
  record.logprobs = std::move(sequence->logprobs);
  record.top = std::move(sequence->top);
  record.logprobs.shrink_to_fit();
  record.top.shrink_to_fit();
  record.completed = completed;
  record.whole = sequence->record_whole;
  return states_.Keep(sequence, std::move(turns), std::move(record));
}

void SequenceEnds::Complete(Sequence* sequence, FinishReason reason) {
  CompletedEvent completed = MakeCompleted(*sequence, reason, clock_.Now());
  if (sequence->is_turn() && !CommitTurn(sequence, completed)) {
    return End(sequence, absl::CancelledError("the session was deleted"));
  }
  Report(*sequence, completed, /*is_told=*/true, absl::OkStatus());
  // Counted and released before the client can know: what it asks for next sees
  // the turn's end.
  Release(sequence);
  TellEnd(sequence, std::move(completed), /*is_told=*/true, absl::OkStatus());
}

void SequenceEnds::End(Sequence* sequence, absl::Status status) {
  CompletedEvent completed =
      MakeCompleted(*sequence, FinishReason::kCancelled, clock_.Now());
  const bool keep = sequence->request.keep_partial && sequence->is_turn() &&
                    sequence->decoding && !sequence->generated.empty() &&
                    MayKeepPartial(status.code()) &&
                    CommitTurn(sequence, completed);
  if (sequence->is_turn() && !keep) sessions_.Abort(sequence->session);
  Report(*sequence, completed, /*is_told=*/keep, status);
  Release(sequence);
  TellEnd(sequence, std::move(completed), /*is_told=*/keep, std::move(status));
}

void SequenceEnds::End(Sequence* sequence, SequenceEnd end) {
  if (end.status.ok()) return Complete(sequence, end.reason);
  End(sequence, std::move(end.status));
}

void SequenceEnds::TellEnd(Sequence* sequence, CompletedEvent completed,
                           bool is_told, absl::Status status) {
  const TurnFigures figures = {completed.usage, completed.timing};
  if (is_told) {
    if (sequence->text != nullptr) completed.text = sequence->text->Flush();
    outbox_.Tell(sequence->stream, std::move(completed));
  }
  outbox_.End(sequence->stream, std::move(status), figures);
}

void SequenceEnds::Release(Sequence* sequence) {
  states_.Release(sequence);
  sequence->place = {};
  sequence->over = true;
}

void SequenceEnds::Report(const Sequence& sequence,
                          const CompletedEvent& completed, bool is_told,
                          const absl::Status& status) {
  RequestSummary summary = SummaryOf(model_, sequence.request);
  summary.status = status;
  if (is_told) {
    summary.finish_reason = FinishReasonName(completed.finish_reason);
  }
  summary.usage = completed.usage;
  summary.timing = completed.timing;
  summary.total = Between(sequence.arrival, clock_.Now());
  on_end_(summary);
}

}  // namespace engram

#include "server/sequence_progress.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace engram {
namespace {

void ObserveToken(Sequence* sequence, absl::Time now,
                  StepObservation* observation) {
  ++observation->generated_tokens;
  if (sequence->last_token_time == absl::InfinitePast()) {
    observation->time_to_first_token_seconds.push_back(
        absl::ToDoubleSeconds(now - sequence->arrival));
  } else {
    observation->inter_token_latency_seconds.push_back(
        absl::ToDoubleSeconds(now - sequence->last_token_time));
  }
  sequence->last_token_time = now;
}

}  // namespace

std::optional<SequenceEnd> SequenceProgress::Advance(
    Sequence* sequence, int tokens, const RowOutcome& outcome, absl::Time now,
    StepObservation* observation) {
  if (!outcome.finite) {
    return SequenceEnd{absl::InternalError(absl::StrCat(
        "the model's hidden state or logits became NaN or infinite near "
        "position ",
        sequence->start.position + sequence->position))};
  }
  if (sequence->request.kind == RequestKind::kScore) {
    TellScores(sequence, outcome.outcomes);
  }
  sequence->fed += tokens;
  sequence->position += tokens;
  if (sequence->remaining() > 0) return {};
  if (!sequence->decoding) {
    const std::optional<SequenceEnd> end = BeginDecoding(sequence, now);
    if (end.has_value()) return end;
  }
  return TellToken(sequence, outcome.outcomes[0], now, observation);
}

std::optional<SequenceEnd> SequenceProgress::BeginDecoding(Sequence* sequence,
                                                           absl::Time now) {
  sequence->decoding = true;
  sequence->prefill_end = now;
  if (sequence->request.kind == RequestKind::kScore ||
      sequence->request.stopping.max_tokens == 0) {
    return SequenceEnd{.reason = FinishReason::kLength};
  }
  if (sequence->received_end) {
    return SequenceEnd{.reason = *sequence->received_end};
  }
  return {};
}

std::optional<SequenceEnd> SequenceProgress::TellToken(
    Sequence* sequence, const Outcome& drawn, absl::Time now,
    StepObservation* observation) {
  const Request& request = sequence->request;
  const int32_t id = drawn.token;
  if (id < 0) {
    return SequenceEnd{absl::InternalError(
        absl::StrCat("every logit is NaN or masked at position ",
                     sequence->start.position + sequence->position))};
  }
  const int32_t index = static_cast<int32_t>(sequence->generated.size());
  sequence->generated.push_back(id);
  ++sequence->generated_counts[id];
  sequence->seen.Insert(id);

  SampledToken token;
  token.index = index;
  token.id = id;
  token.is_stop_token = drawn.stops && IsStopToken(request.stopping, id);
  if (request.logprobs > 0) {
    token.logprob = drawn.log_probability;
    token.top = drawn.top;
    KeepForRepeat(sequence, *token.logprob, token.top);
  }
  if (sequence->text != nullptr) token.Read(sequence->text.get());
  const bool ends_turn = token.ends_turn();
  outbox_.Tell(sequence->stream, std::move(token));
  ObserveToken(sequence, now, observation);

  if (ends_turn) return SequenceEnd{.reason = FinishReason::kStop};
  if (index + 1 >= request.stopping.max_tokens) {
    return SequenceEnd{.reason = FinishReason::kLength};
  }
  sequence->to_feed.assign(1, id);
  sequence->fed = 0;
  return {};
}

void SequenceProgress::KeepForRepeat(Sequence* sequence, float logprob,
                                     const std::vector<LogProbability>& top) {
  // Only turns on a session are ever repeated from a record.
  if (!sequence->is_turn() || !sequence->record_whole) return;
  sequence->logprobs.push_back(logprob);
  sequence->top.insert(sequence->top.end(), top.begin(), top.end());
  sequence->top.resize(sequence->logprobs.size() * sequence->request.logprobs,
                       LogProbability{.id = -1});
  if (sequence->top.size() * sizeof(LogProbability) > answer_bytes_) {
    sequence->record_whole = false;
    sequence->logprobs = {};
    sequence->top = {};
  }
}

void SequenceProgress::TellScores(Sequence* sequence,
                                  absl::Span<const Outcome> scores) {
  if (sequence->fed == 0 && !sequence->start.pending &&
      !IsScoredBefore(*sequence)) {
    TellScore(sequence, nullptr);
  }
  for (const Outcome& score : scores) TellScore(sequence, &score);
}

void SequenceProgress::TellScore(Sequence* sequence, const Outcome* score) {
  SampledToken token;
  token.index = sequence->scored++;
  token.id = sequence->request.prompt[token.index];
  if (score != nullptr) {
    token.logprob = score->log_probability;
    token.top = score->top;
  }
  outbox_.Tell(sequence->stream, std::move(token));
}

}  // namespace engram

#include "server/replay.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/quoted.h"
#include "server/sequence.h"

namespace engram {

absl::StatusOr<std::unique_ptr<Replay>> Replay::Create(
    std::shared_ptr<const TurnRecord> record, const Request& request,
    const Tokenizer* tokenizer) {
  const std::vector<int32_t>& received = request.received;
  for (size_t i = 0; i < received.size(); ++i) {
    if (i >= record->tokens.size()) {
      return absl::FailedPreconditionError(
          absl::StrCat("received_token_ids has ", received.size(),
                       " tokens, request ", Quoted(record->request_id),
                       " committed with ", record->tokens.size()));
    }
    if (received[i] != record->tokens[i]) {
      return absl::FailedPreconditionError(absl::StrCat(
          "received_token_ids[", i, "] is ", received[i], ", request ",
          Quoted(record->request_id), " committed with ", record->tokens[i]));
    }
  }
  std::unique_ptr<Replay> replay(
      new Replay(std::move(record), request, tokenizer));
  while (replay->next_ < received.size()) {
    if (!replay->NextToken().has_value()) return replay->status_;
  }
  return replay;
}

Replay::Replay(std::shared_ptr<const TurnRecord> record, const Request& request,
               const Tokenizer* tokenizer)
    : record_(std::move(record)),
      stopping_(request.stopping),
      tokenizer_(tokenizer),
      text_(tokenizer, request.stopping.stop) {}

std::optional<TokenEvent> Replay::NextToken() {
  const size_t i = next_++;
  SampledToken token;
  token.index = static_cast<int32_t>(i);
  token.id = record_->tokens[i];
  token.is_stop_token = IsStopToken(stopping_, token.id);
  // Tokens that were received, not sampled, have no probabilities on record.
  const size_t unknown = record_->tokens.size() - record_->logprobs.size();
  if (!record_->logprobs.empty() && i >= unknown) {
    token.logprob = record_->logprobs[i - unknown];
    const absl::Span<const LogProbability> kept = record_->TopOf(i - unknown);
    token.top.assign(kept.begin(), kept.end());
  }
  token.Read(&text_);
  if (token.ends_turn() && next_ < record_->tokens.size()) {
    // Nothing a client sends makes two requests equal that stop differently;
    // but a record may one day come from another machine.
    status_ = absl::InternalError(
        absl::StrCat("the record of request ", Quoted(record_->request_id),
                     " goes on after token ", i, ", which ends the turn"));
    return std::nullopt;
  }
  return MakeTokenEvent(std::move(token), tokenizer_);
}

bool Replay::Next(Event* event) {
  if (!started_) {
    started_ = true;
    *event = record_->started;
    return true;
  }
  if (!status_.ok()) return false;
  if (next_ < record_->tokens.size()) {
    std::optional<TokenEvent> token = NextToken();
    if (!token.has_value()) return false;
    *event = *std::move(token);
    return true;
  }
  if (completed_) return false;
  completed_ = true;
  CompletedEvent completed = record_->completed;
  completed.text = text_.Flush();
  *event = std::move(completed);
  return true;
}

}  // namespace engram

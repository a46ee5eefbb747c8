#include "server/sequence.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "server/footprint.h"

namespace engram {

size_t SequenceBytes(const Request& request) {
  // Prompt and received tokens are copied to where they are fed from, and the
  // latter into the answer too.
  size_t bytes =
      sizeof(Sequence) + HeapBytes(sizeof(TurnText)) +
      2 * HeapBytesOf(request.prompt) + 3 * HeapBytesOf(request.received) +
      HeapBytesOf(request.session_id) + HeapBytesOf(request.request_id) +
      HeapBytesOf(request.from_checkpoint) +
      2 * HeapBytesOf(request.stopping.stop_token_ids) +
      2 * HeapBytesOf(request.stopping.end_of_text_ids) +
      request.sampling.logit_bias.size() *
          HeapBytes(kMapNodeBytes<int32_t, float>);
  for (const std::string& stop : request.stopping.stop) {
    // What is searched for it takes some 21 bytes for each of its own.
    bytes += sizeof(stop) + HeapBytesOf(stop) + 24 * stop.size();
  }
  return bytes;
}

WaitingRequest AsWaiting(const Sequence& sequence) {
  return {.priority = sequence.request.priority,
          .arrival = sequence.arrival,
          .prompt_tokens = static_cast<int64_t>(
              sequence.has_started() ? sequence.remaining()
                                     : sequence.request.prompt.size()),
          .tenant = NumberOf(sequence.request.tenant),
          .weight = WeightOf(sequence.request.tenant)};
}

bool GoesBefore(const WaitingRequest& left, const WaitingRequest& right) {
  if (left.priority != right.priority) return left.priority > right.priority;
  return left.arrival < right.arrival;
}

bool IsStopToken(const Stopping& stopping, int32_t id) {
  const auto contains = [id](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
  };
  return contains(stopping.stop_token_ids) ||
         contains(stopping.end_of_text_ids);
}

bool IsScoredBefore(const Sequence& sequence) {
  return sequence.request.kind == RequestKind::kScore && sequence.fed == 0 &&
         sequence.start.position > 0 && !sequence.start.pending.has_value();
}

absl::Status ReadReceived(Sequence* sequence) {
  const Stopping& stopping = sequence->request.stopping;
  const std::vector<int32_t>& received = sequence->request.received;
  absl::flat_hash_set<int32_t> stop_tokens(stopping.stop_token_ids.begin(),
                                           stopping.stop_token_ids.end());
  stop_tokens.insert(stopping.end_of_text_ids.begin(),
                     stopping.end_of_text_ids.end());
  sequence->generated.reserve(received.size());
  for (size_t i = 0; i < received.size(); ++i) {
    const int32_t id = received[i];
    if (sequence->received_end) {
      return absl::InvalidArgumentError(absl::StrCat(
          "received_token_ids[", i - 1, "] (", received[i - 1],
          ") ends the turn, but ", received.size() - i, " tokens follow it"));
    }
    sequence->generated.push_back(id);
    ++sequence->generated_counts[id];
    const bool is_stop_token = stop_tokens.contains(id);
    if (sequence->text->Append(id, is_stop_token).stopped || is_stop_token) {
      sequence->received_end = FinishReason::kStop;
    }
  }
  if (!sequence->received_end && !received.empty() &&
      static_cast<int64_t>(received.size()) == stopping.max_tokens) {
    sequence->received_end = FinishReason::kLength;
  }
  return absl::OkStatus();
}

void Prepare(Sequence* sequence, int64_t vocabulary_size) {
  const Request& request = sequence->request;
  const CommittedTurns& start = sequence->start;
  sequence->to_feed.reserve((start.pending ? 1 : 0) + request.prompt.size() +
                            request.received.size());
  if (start.pending) sequence->to_feed.push_back(*start.pending);
  sequence->to_feed.insert(sequence->to_feed.end(), request.prompt.begin(),
                           request.prompt.end());
  sequence->to_feed.insert(sequence->to_feed.end(), request.received.begin(),
                           request.received.end());
  const Stopping& stopping = request.stopping;
  sequence->stop_ids.reserve(stopping.stop_token_ids.size() +
                             stopping.end_of_text_ids.size());
  sequence->stop_ids = stopping.stop_token_ids;
  sequence->stop_ids.insert(sequence->stop_ids.end(),
                            stopping.end_of_text_ids.begin(),
                            stopping.end_of_text_ids.end());
  // Each once: a device has room for as many as there are.
  std::sort(sequence->stop_ids.begin(), sequence->stop_ids.end());
  sequence->stop_ids.erase(
      std::unique(sequence->stop_ids.begin(), sequence->stop_ids.end()),
      sequence->stop_ids.end());
  sequence->seen = start.seen ? *start.seen : TokenSet(vocabulary_size);
  for (int32_t id : sequence->to_feed) sequence->seen.Insert(id);
  // The last token of a turn is never fed by it: it stays pending.
  if (sequence->received_end) sequence->to_feed.pop_back();
}

}  // namespace engram

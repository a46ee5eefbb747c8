#include "server/sequence.h"

#include <algorithm>

namespace engram {

bool IsStopToken(const Stopping& stopping,
                 const std::vector<int32_t>& eos_token_ids, int32_t id) {
  const auto contains = [id](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
  };
  return contains(stopping.stop_token_ids) ||
         (!stopping.ignore_eos && contains(eos_token_ids));
}

namespace {

// The text, counts and end of a turn whose first tokens the client has.
void ReadReceived(Sequence* sequence,
                  const std::vector<int32_t>& eos_token_ids) {
  const Request& request = sequence->request;
  for (int32_t id : request.received) {
    sequence->generated.push_back(id);
    ++sequence->generated_counts[id];
    const bool stops = IsStopToken(request.stopping, eos_token_ids, id) ||
                       sequence->text.Append(id).stopped;
    if (stops) sequence->received_end = FinishReason::kStop;
  }
  const int64_t generated = static_cast<int64_t>(sequence->generated.size());
  if (!sequence->received_end && generated > 0 &&
      generated == request.stopping.max_tokens) {
    sequence->received_end = FinishReason::kLength;
  }
}

}  // namespace

void Prepare(Sequence* sequence, const std::vector<int32_t>& eos_token_ids,
             int64_t vocabulary_size) {
  const Request& request = sequence->request;
  const CommittedTurns& start = sequence->start;
  if (start.pending) sequence->to_feed.push_back(*start.pending);
  sequence->to_feed.insert(sequence->to_feed.end(), request.prompt.begin(),
                           request.prompt.end());
  sequence->to_feed.insert(sequence->to_feed.end(), request.received.begin(),
                           request.received.end());
  sequence->seen = start.seen ? *start.seen : TokenSet(vocabulary_size);
  for (int32_t id : sequence->to_feed) sequence->seen.Insert(id);
  ReadReceived(sequence, eos_token_ids);
  // The last token of a turn is never fed by it: it stays pending.
  if (sequence->received_end) sequence->to_feed.pop_back();
}

}  // namespace engram

#include "server/turn_record.h"

#include "server/footprint.h"

namespace engram {

size_t TurnRecord::bytes() const {
  return SharedBytes<TurnRecord>() + HeapBytesOf(request_id) +
         HeapBytesOf(started.session_id) + HeapBytesOf(started.request_id) +
         HeapBytesOf(tokens) + HeapBytesOf(logprobs) + HeapBytesOf(top);
}

absl::Span<const LogProbability> TurnRecord::TopOf(size_t index) const {
  const size_t each = top.size() / logprobs.size();
  absl::Span<const LogProbability> found =
      absl::MakeConstSpan(top).subspan(index * each, each);
  while (!found.empty() && found.back().id < 0) found.remove_suffix(1);
  return found;
}

}  // namespace engram

#include "server/parked_sequences.h"

#include <algorithm>
#include <utility>

#include "kernels/status.h"

namespace engram {

std::vector<std::unique_ptr<Sequence>>::const_iterator
ParkedSequences::FindNext(const SlotShares& shares) const {
  auto best = sequences_.end();
  for (auto next = sequences_.begin(); next != sequences_.end(); ++next) {
    if ((*next)->over || !(*next)->stream->HasAmpleRoom()) continue;
    if (best == sequences_.end() ||
        shares.GoesBefore(AsWaiting(**next), AsWaiting(**best))) {
      best = next;
    }
  }
  return best;
}

std::optional<WaitingRequest> ParkedSequences::Next(
    const SlotShares& shares) const {
  const auto next = FindNext(shares);
  if (next == sequences_.end()) return std::nullopt;
  return AsWaiting(**next);
}

std::unique_ptr<Sequence> ParkedSequences::TakeNext(const SlotShares& shares) {
  const auto next = FindNext(shares);
  ENGRAM_CHECK(next != sequences_.end());
  const auto place = sequences_.begin() + (next - sequences_.cbegin());
  std::unique_ptr<Sequence> taken = std::move(*place);
  sequences_.erase(place);
  return taken;
}

void ParkedSequences::DropOver() {
  std::erase_if(sequences_,
                [](const auto& sequence) { return sequence->over; });
}

}  // namespace engram

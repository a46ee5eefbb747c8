// ParkedSequences: those that have begun and yielded their slots, because their
// readers do not read, or because others matter more; and which of them goes on
// first. Their states lie in RAM (server/state_keeper.h).
//
// Engine thread only.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "server/sequence.h"
#include "server/slot_shares.h"

namespace engram {

class ParkedSequences {
 public:
  int size() const { return static_cast<int>(sequences_.size()); }
  // For those that end where they are; DropOver must follow.
  const std::vector<std::unique_ptr<Sequence>>& all() const {
    return sequences_;
  }

  void Add(std::unique_ptr<Sequence> sequence) {
    sequences_.push_back(std::move(sequence));
  }
  // Whose reader has made ample room, as SlotShares::GoesBefore has it: a full
  // stream with room for one token would only be parked again.
  std::optional<WaitingRequest> Next(const SlotShares& shares = {}) const;
  // REQUIRES: Next() told of one.
  std::unique_ptr<Sequence> TakeNext(const SlotShares& shares = {});
  // Those that have ended.
  void DropOver();

 private:
  std::vector<std::unique_ptr<Sequence>>::const_iterator FindNext(
      const SlotShares& shares) const;

  std::vector<std::unique_ptr<Sequence>> sequences_;
};

}  // namespace engram

// RunningSequences: those that have a slot, in order of arrival, and which of
// them makes way for others that want one.
//
// Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "server/sequence.h"
#include "server/slot_shares.h"

namespace engram {

// When a sequence gives up its slot to one that matters more, or is much
// shorter.
struct SlotTurns {
  // Steps that there are before while it has the slot, whether it is in them
  // or not.
  int64_t steps = 64;
  // How long the rest of a prompt is that yields to shorter ones.
  int64_t long_prompt_tokens = 8192;
};

class RunningSequences {
 public:
  explicit RunningSequences(const SlotTurns& turns) : turns_(turns) {}

  int size() const { return static_cast<int>(sequences_.size()); }
  const std::vector<std::unique_ptr<Sequence>>& all() const {
    return sequences_;
  }

  // Whose slots they have.
  const SlotShares& shares() const { return shares_; }

  // One that has just got its slot.
  void Add(std::unique_ptr<Sequence> sequence);
  // REQUIRES: it is here.
  std::unique_ptr<Sequence> Take(const Sequence* sequence);
  // Those that have ended.
  void DropOver();

  // The one that has waited longest for its reader; nullptr if none does.
  Sequence* LongestPaused() const;
  // The one that is to make way for such a request: of the tenant that has most
  // slots for its weight, if it has more than its share; else, of the request's
  // own tenant, the last of those that matter less or are much longer; nullptr
  // if none is.
  Sequence* WhoMakesWayFor(const WaitingRequest& request) const;
  // Whether a step would give somebody a token.
  bool StreamsRun() const;

 private:
  bool MakesWayFor(const Sequence& sequence,
                   const WaitingRequest& request) const;

  // Whether it has done enough in its slot that its state may be moved.
  bool HasHadItsSteps(const Sequence& sequence) const;

  const SlotTurns turns_;
  SlotShares shares_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
};

}  // namespace engram

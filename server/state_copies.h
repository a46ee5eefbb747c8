// StateCopies: the copies of states between slots of one device and RAM that
// have begun, beside the steps. A copy holds what it reads and writes until it
// is done: its slot is not free before, and its block not freed.
//
// Where a back end has no queue, a copy is done when it has begun.
//
// Engine thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/state_pool.h"
#include "server/state_block.h"

namespace engram {

class StateCopies {
 public:
  // `states` must outlive this.
  explicit StateCopies(StatePool* states);
  // Waits for those that are not done.
  ~StateCopies();
  StateCopies(const StateCopies&) = delete;
  StateCopies& operator=(const StateCopies&) = delete;

  const StatePool& states() const { return states_; }

  // Begin a copy and return its number; later ones have higher numbers, and are
  // done later. INTERNAL: the device failed.
  // Of the slot's state, `count` bytes from `begin` on to the same place of
  // `block`, which is nobody else's to read until then.
  absl::StatusOr<int64_t> BeginSave(int slot, size_t begin, size_t count,
                                    std::shared_ptr<StateBlock> block);
  // The whole block, for the state after `tokens` tokens; the slot's is nobody
  // else's to read until then.
  absl::StatusOr<int64_t> BeginRestore(int slot,
                                       std::shared_ptr<const StateBlock> block,
                                       int64_t tokens);

  // As the last call of Settle, Wait or one of those above found it.
  bool IsDone(int64_t number) const { return number <= last_done_; }
  // A copy from or to the slot is not done: it must not be written.
  bool IsBusy(int slot) const { return slots_[slot].copies > 0; }
  // One to the slot is not: nor must it be read, but by other copies.
  bool IsArriving(int slot) const { return slots_[slot].restores > 0; }
  bool empty() const { return begun_.empty(); }

  // StatePool::Free, at once or as soon as the slot is not busy.
  void Free(int slot);
  int slots_to_come() const { return slots_to_come_; }  // free then

  // Finds out which are done; does not wait. INTERNAL: the device failed, and
  // so did what is not done: slots are held no more, and nothing is to be asked
  // of the device any more.
  absl::Status Settle();
  // The same once the first of those begun is done; at once if there is none.
  absl::Status Wait();
  // What these returned last.
  const absl::Status& failure() const { return failure_; }

 private:
  struct Slot {
    int copies = 0;
    int restores = 0;    // of them
    bool freed = false;  // as far as others know
  };
  struct Copy {
    std::unique_ptr<DeviceEvent> done;
    int slot = -1;
    std::shared_ptr<const StateBlock> block;
    bool restores = false;
  };

  absl::StatusOr<int64_t> Add(
      int slot, std::shared_ptr<const StateBlock> block, bool restores,
      absl::StatusOr<std::unique_ptr<DeviceEvent>> begun);
  // Waits for the first of those begun.
  absl::Status EndFirst();
  absl::Status Fail(absl::Status status);
  void EndHolding(const Copy& copy);

  StatePool& states_;
  std::vector<Slot> slots_;
  std::deque<Copy> begun_;
  // Of a device that failed: nobody knows what it still does with the blocks.
  std::deque<Copy> failed_;
  int64_t last_done_ = 0;
  int slots_to_come_ = 0;
  absl::Status failure_;
};

}  // namespace engram

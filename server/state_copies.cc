#include "server/state_copies.h"

#include <utility>

#include "kernels/status.h"

namespace engram {

StateCopies::StateCopies(StatePool* states)
    : states_(*states), slots_(states->slots()) {}

StateCopies::~StateCopies() {
  for (const Copy& copy : begun_) (void)copy.done->Wait();
}

absl::StatusOr<int64_t> StateCopies::BeginSave(
    int slot, size_t begin, size_t count, std::shared_ptr<StateBlock> block) {
  std::byte* const part = block->data() + begin;
  return Add(slot, std::move(block), /*restores=*/false,
             states_.BeginSavePart(slot, begin, count, part));
}

absl::StatusOr<int64_t> StateCopies::BeginRestore(
    int slot, std::shared_ptr<const StateBlock> block, int64_t tokens) {
  const std::byte* const data = block->data();
  return Add(slot, std::move(block), /*restores=*/true,
             states_.BeginRestore(slot, data, tokens));
}

absl::StatusOr<int64_t> StateCopies::Add(
    int slot, std::shared_ptr<const StateBlock> block, bool restores,
    absl::StatusOr<std::unique_ptr<DeviceEvent>> begun) {
  if (!begun.ok()) {
    // Part of it may have begun.
    failed_.push_back({nullptr, slot, std::move(block), restores});
    return Fail(begun.status());
  }
  ++slots_[slot].copies;
  slots_[slot].restores += restores ? 1 : 0;
  begun_.push_back({*std::move(begun), slot, std::move(block), restores});
  const int64_t number = last_done_ + static_cast<int64_t>(begun_.size());
  ENGRAM_RETURN_IF_ERROR(Settle());
  return number;
}

void StateCopies::Free(int slot) {
  if (!IsBusy(slot)) return states_.Free(slot);
  ENGRAM_CHECK(!slots_[slot].freed);
  slots_[slot].freed = true;
  ++slots_to_come_;
}

absl::Status StateCopies::Settle() {
  while (!begun_.empty() && begun_.front().done->Reached()) {
    ENGRAM_RETURN_IF_ERROR(EndFirst());
  }
  return failure_;
}

absl::Status StateCopies::Wait() {
  if (!begun_.empty()) ENGRAM_RETURN_IF_ERROR(EndFirst());
  return Settle();
}

absl::Status StateCopies::EndFirst() {
  const absl::Status ended = begun_.front().done->Wait();
  if (!ended.ok()) return Fail(ended);
  const Copy copy = std::move(begun_.front());
  begun_.pop_front();
  ++last_done_;
  EndHolding(copy);
  return absl::OkStatus();
}

absl::Status StateCopies::Fail(absl::Status status) {
  failure_ = std::move(status);
  for (Copy& copy : begun_) {
    EndHolding(copy);
    failed_.push_back(std::move(copy));
  }
  begun_.clear();
  return failure_;
}

void StateCopies::EndHolding(const Copy& copy) {
  Slot& slot = slots_[copy.slot];
  slot.restores -= copy.restores ? 1 : 0;
  if (--slot.copies > 0 || !slot.freed) return;
  slot.freed = false;
  --slots_to_come_;
  states_.Free(copy.slot);
}

}  // namespace engram

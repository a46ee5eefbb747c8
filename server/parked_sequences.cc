#include "server/parked_sequences.h"

#include <algorithm>
#include <utility>

#include "kernels/status.h"

namespace engram {

bool ParkedSequences::Park(std::unique_ptr<Sequence>* sequence) {
  Sequence& parked = **sequence;
  const size_t bytes = states_->bytes(parked.slot);
  if (!sessions_->HoldForParked(bytes)) return false;
  auto block = std::make_shared<StateBlock>(bytes);
  states_->Save(parked.slot, block->data());
  states_->Free(parked.slot);
  parked.slot = -1;
  parked.parked_state = std::move(block);
  sequences_.push_back(std::move(*sequence));
  return true;
}

std::vector<std::unique_ptr<Sequence>>::const_iterator
ParkedSequences::FindNext() const {
  auto best = sequences_.end();
  for (auto next = sequences_.begin(); next != sequences_.end(); ++next) {
    if ((*next)->over || !(*next)->stream->HasAmpleRoom()) continue;
    if (best == sequences_.end() ||
        GoesBefore(AsWaiting(**next), AsWaiting(**best))) {
      best = next;
    }
  }
  return best;
}

std::optional<WaitingRequest> ParkedSequences::Next() const {
  const auto next = FindNext();
  if (next == sequences_.end()) return std::nullopt;
  return AsWaiting(**next);
}

std::unique_ptr<Sequence> ParkedSequences::TakeNext() {
  const auto next = FindNext();
  ENGRAM_CHECK(next != sequences_.end());
  const auto place = sequences_.begin() + (next - sequences_.cbegin());
  std::unique_ptr<Sequence> taken = std::move(*place);
  sequences_.erase(place);
  return taken;
}

void ParkedSequences::PutBack(std::unique_ptr<Sequence> sequence) {
  sequences_.push_back(std::move(sequence));
}

void ParkedSequences::Restore(Sequence* sequence) {
  states_->Restore(sequence->slot, sequence->parked_state->data(),
                   sequence->start.position + sequence->position);
  Forget(sequence);
}

void ParkedSequences::Forget(Sequence* sequence) {
  if (sequence->parked_state == nullptr) return;
  sessions_->ReleaseParked(sequence->parked_state->size());
  sequence->parked_state = nullptr;
}

void ParkedSequences::DropOver() {
  std::erase_if(sequences_,
                [](const auto& sequence) { return sequence->over; });
}

}  // namespace engram

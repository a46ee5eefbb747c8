#include "kernels/cuda/memory_pieces.h"

#include <iterator>

#include "kernels/status.h"

namespace engram::cuda {

void MemoryPieces::Add(void* stretch, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(stretch);
  stretches_.insert(begin);
  holes_[begin] = bytes / alignment_ * alignment_;
}

void* MemoryPieces::TryTake(size_t bytes) {
  auto best = holes_.end();
  for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
    // Holes are multiples of the alignment: room for the bytes is room for it.
    if (hole->second < bytes) continue;
    if (best == holes_.end() || hole->second < best->second) best = hole;
  }
  if (best == holes_.end()) return nullptr;
  const uintptr_t begin = best->first;
  const size_t taken = (bytes + alignment_ - 1) / alignment_ * alignment_;
  const size_t left = best->second - taken;
  holes_.erase(best);
  if (left > 0) holes_[begin + taken] = left;
  pieces_[begin] = taken;
  used_ += taken;
  return reinterpret_cast<void*>(begin);
}

size_t MemoryPieces::GiveBack(void* piece) {
  const auto found = pieces_.find(reinterpret_cast<uintptr_t>(piece));
  ENGRAM_CHECK(found != pieces_.end());
  const size_t bytes = found->second;
  const auto hole = holes_.emplace(found->first, bytes).first;
  pieces_.erase(found);
  used_ -= bytes;
  Join(hole);
  if (hole != holes_.begin()) Join(std::prev(hole));
  return bytes;
}

// With the hole behind it, if that begins where this one ends and not another
// stretch does.
void MemoryPieces::Join(Holes::iterator hole) {
  const auto next = std::next(hole);
  if (next == holes_.end() || hole->first + hole->second != next->first ||
      stretches_.count(next->first) != 0) {
    return;
  }
  hole->second += next->second;
  holes_.erase(next);
}

}  // namespace engram::cuda

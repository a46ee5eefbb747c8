// MemoryPieces: which pieces of some stretches of memory are whose, by address
// alone; the memory is never touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>

namespace engram::cuda {

class MemoryPieces {
 public:
  // Pieces begin and end at multiples of `alignment` from where their stretch
  // does.
  explicit MemoryPieces(size_t alignment) : alignment_(alignment) {}

  // `bytes` more that are free. No piece reaches from one stretch into another.
  void Add(void* stretch, size_t bytes);
  // The smallest hole's beginning that is large enough; nullptr if there is
  // none. REQUIRES: bytes > 0.
  void* TryTake(size_t bytes);
  // How large it was. REQUIRES: a piece's beginning.
  size_t GiveBack(void* piece);

  // Of all pieces, with what their alignment costs.
  size_t used() const { return used_; }

 private:
  // By their first byte.
  using Holes = std::map<uintptr_t, size_t>;

  void Join(Holes::iterator hole);

  const size_t alignment_;
  std::set<uintptr_t> stretches_;  // their first bytes
  std::map<uintptr_t, size_t> pieces_;
  Holes holes_;
  size_t used_ = 0;
};

}  // namespace engram::cuda

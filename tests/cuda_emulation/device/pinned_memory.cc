#include "tests/cuda_emulation/device/pinned_memory.h"

#include <cstdlib>

namespace engram::emulation {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

PinnedMemory& PinnedMemory::Get() {
  static PinnedMemory* memory = new PinnedMemory;
  return *memory;
}

void* PinnedMemory::Allocate(size_t bytes) {
  void* const pointer = std::aligned_alloc(
      kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (pointer != nullptr) {
    allocations_[reinterpret_cast<uintptr_t>(pointer)] = bytes;
  }
  return pointer;
}

bool PinnedMemory::Free(void* pointer) {
  if (allocations_.erase(reinterpret_cast<uintptr_t>(pointer)) == 0) {
    return false;
  }
  std::free(pointer);
  return true;
}

bool PinnedMemory::Contains(const void* pointer, size_t bytes) const {
  const uintptr_t at = reinterpret_cast<uintptr_t>(pointer);
  auto found = allocations_.upper_bound(at);
  if (found == allocations_.begin()) return false;
  --found;
  return at - found->first <= found->second &&
         bytes <= found->second - (at - found->first);
}

}  // namespace engram::emulation

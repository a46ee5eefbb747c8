// PinnedMemory: host memory that all devices reach by themselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace engram::emulation {

class PinnedMemory {
 public:
  static PinnedMemory& Get();

  // Null if there is none left. REQUIRES: at least one byte.
  void* Allocate(size_t bytes);
  // False if it is no allocation's first byte.
  bool Free(void* pointer);
  // Whether all of it lies in one allocation.
  bool Contains(const void* pointer, size_t bytes) const;

 private:
  std::map<uintptr_t, size_t> allocations_;  // first byte: bytes
};

}  // namespace engram::emulation

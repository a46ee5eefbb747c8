// DeviceMemory: the addresses that the emulated device gives away, and the
// host's pinned memory.
//
// An address of the device is reserved and never accessible: its bytes lie at a
// fixed distance (address_table.to_data). Each allocation ends where a page
// that is nobody's begins, as nearly as an alignment of 256 bytes lets it.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "emulated_device.h"

namespace engram::emulation {

// A byte of memory that nobody has written: a number of such bytes is NaN in
// any floating-point format.
inline constexpr int kNoNumber = 0xff;

class DeviceMemory {
 public:
  static DeviceMemory& Get();

  // Filled with bytes that are no number in any floating-point format. Null if
  // the device has not so many left. REQUIRES: at least one, here and below.
  void* Allocate(size_t bytes);
  // False if it is no allocation's first byte.
  bool Free(void* address);
  size_t free_bytes() const;

  // Whether all of it lies in one allocation.
  bool Contains(const void* address, size_t bytes) const;
  // Where the bytes of an address lie. REQUIRES: Contains.
  char* Data(const void* address) const;
  // Whether it is an address of the device at all.
  bool Reserved(const void* address) const;

  void* AllocatePinned(size_t bytes);
  bool FreePinned(void* pointer);
  bool IsPinned(const void* pointer, size_t bytes) const;

 private:
  DeviceMemory();

  size_t used_ = 0;
  std::vector<uint32_t> free_ranges_;
  std::vector<Range> ranges_;
  uint32_t* granules_ = nullptr;
  std::map<uintptr_t, uint32_t> allocations_;  // first byte: its range
  std::map<uintptr_t, size_t> free_granules_;  // first: how many
  std::map<uintptr_t, size_t> pinned_;         // first byte: bytes
};

}  // namespace engram::emulation

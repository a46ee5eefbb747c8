// DeviceMemory: the addresses that an emulated device gives away.
//
// An address of a device is reserved and never accessible: its bytes lie at a
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
  // REQUIRES: IsDevice.
  static DeviceMemory& Of(int device);
  // The one that the address is of; null if it is no device's.
  static DeviceMemory* OwnerOf(const void* address);

  int device() const { return device_; }
  // Kernels reach this memory from now on, and no other.
  void BeReached() const;

  // Filled with bytes that are no number in any floating-point format. Null if
  // the device has not so many left. REQUIRES: at least one, here and below.
  void* Allocate(size_t bytes);
  // emulation::DivideAllocation and those behind it (cuda_runtime.h).
  void Divide(void* allocation);
  void BeginPiece(void* piece, size_t bytes);
  void EndPiece(void* piece);
  // False if it is no allocation's first byte.
  bool Free(void* address);
  size_t free_bytes() const;

  // Whether all of it lies in one allocation.
  bool Contains(const void* address, size_t bytes) const;
  // Where the bytes of an address lie. REQUIRES: Contains.
  char* Data(const void* address) const;
  // Whether it is an address of the device at all.
  bool Reserved(const void* address) const;

 private:
  explicit DeviceMemory(int device);
  // Of a new range; 0 if there are too many.
  uint32_t AddRange(const Range& range);
  void DropRange(uint32_t number);
  // Whose the granules from `begin` on are from now on.
  void SetRange(uintptr_t begin, size_t granules, uint32_t number);

  const int device_;
  AddressTable table_ = {};
  size_t used_ = 0;
  std::vector<uint32_t> free_ranges_;
  std::vector<Range> ranges_;
  uint32_t* granules_ = nullptr;
  std::map<uintptr_t, uint32_t> allocations_;  // first byte: its range
  std::map<uintptr_t, size_t> free_granules_;  // first: how many
};

}  // namespace engram::emulation

#include "tests/cuda_emulation/device/device_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/refuse.h"

namespace engram::emulation {
namespace {

constexpr size_t kReserved = size_t{64} << 30;
constexpr size_t kGranule = size_t{1} << AddressTable::kGranuleBits;
constexpr size_t kAlignment = 256;
constexpr int kNoNumber = 0xff;

size_t RoundUp(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

void* Reserve(size_t bytes, int protection) {
  void* const at = mmap(nullptr, bytes, protection,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) {
    Refuse(Site::current(), "no %zu bytes of address space left", bytes);
  }
  return at;
}

}  // namespace

AddressTable address_table = {};

void RefuseAddress(const void* address, size_t bytes, const Site& site) {
  const DeviceMemory& memory = DeviceMemory::Get();
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    Refuse(site, "%zu bytes at %p, which is not aligned to as many", bytes,
           address);
  }
  if (!memory.Reserved(address)) {
    Refuse(site, "%zu bytes at %p, which is no memory of the device", bytes,
           address);
  }
  Refuse(site, "%zu bytes at %p, which are in no allocation", bytes, address);
}

DeviceMemory& DeviceMemory::Get() {
  static DeviceMemory* memory = new DeviceMemory;
  return *memory;
}

DeviceMemory::DeviceMemory() {
  ranges_.reserve(1 << 16);
  ranges_.push_back({1, 0});
  char* const base =
      static_cast<char*>(Reserve(kReserved + kGranule, PROT_NONE));
  const uintptr_t first = RoundUp(reinterpret_cast<uintptr_t>(base), kGranule);
  char* const data =
      static_cast<char*>(Reserve(kReserved + kGranule, PROT_NONE));
  const uintptr_t first_data =
      RoundUp(reinterpret_cast<uintptr_t>(data), kGranule);
  granules_ = static_cast<uint32_t*>(
      Reserve(kReserved / kGranule * sizeof(uint32_t), PROT_READ | PROT_WRITE));
  free_granules_[first] = kReserved / kGranule;
  address_table = {first, kReserved, first_data - first, granules_,
                   ranges_.data()};
}

void* DeviceMemory::Allocate(size_t bytes) {
  const size_t kept = RoundUp(std::max<size_t>(bytes, 1), kAlignment);
  if (kept > free_bytes()) return nullptr;
  const size_t granules = RoundUp(kept, kGranule) / kGranule;
  // One more is nobody's.
  const auto found =
      std::find_if(free_granules_.begin(), free_granules_.end(),
                   [&](const auto& hole) { return hole.second > granules; });
  if (found == free_granules_.end()) return nullptr;
  const uintptr_t first = found->first;
  const size_t left = found->second - granules - 1;
  free_granules_.erase(found);
  if (left > 0) free_granules_[first + (granules + 1) * kGranule] = left;

  const uintptr_t begin = first + granules * kGranule - kept;
  uint32_t range = static_cast<uint32_t>(ranges_.size());
  if (free_ranges_.empty()) {
    if (ranges_.size() == ranges_.capacity()) return nullptr;
    ranges_.push_back({});
  } else {
    range = free_ranges_.back();
    free_ranges_.pop_back();
  }
  ranges_[range] = {begin, begin + bytes};
  std::fill_n(granules_ + (first - address_table.base) / kGranule, granules,
              range);
  void* const data = reinterpret_cast<void*>(first + address_table.to_data);
  if (mprotect(data, granules * kGranule, PROT_READ | PROT_WRITE) != 0) {
    Refuse(Site::current(), "no memory for %zu bytes of the device", bytes);
  }
  std::memset(reinterpret_cast<char*>(begin + address_table.to_data), kNoNumber,
              bytes);
  allocations_[begin] = range;
  used_ += kept;
  return reinterpret_cast<void*>(begin);
}

bool DeviceMemory::Free(void* address) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  const auto found = allocations_.find(begin);
  if (found == allocations_.end()) return false;
  const Range range = ranges_[found->second];
  const size_t kept =
      RoundUp(std::max<size_t>(range.end - range.begin, 1), kAlignment);
  const size_t granules = RoundUp(kept, kGranule) / kGranule;
  const uintptr_t first = begin / kGranule * kGranule;
  std::fill_n(granules_ + (first - address_table.base) / kGranule, granules, 0);
  void* const data = reinterpret_cast<void*>(first + address_table.to_data);
  madvise(data, granules * kGranule, MADV_DONTNEED);
  mprotect(data, granules * kGranule, PROT_NONE);
  ranges_[found->second] = {1, 0};
  free_ranges_.push_back(found->second);
  allocations_.erase(found);
  used_ -= kept;

  // Joined with the free ones behind and in front of it.
  auto hole = free_granules_.emplace(first, granules + 1).first;
  const auto next = std::next(hole);
  if (next != free_granules_.end() &&
      hole->first + hole->second * kGranule == next->first) {
    hole->second += next->second;
    free_granules_.erase(next);
  }
  if (hole != free_granules_.begin()) {
    const auto before = std::prev(hole);
    if (before->first + before->second * kGranule == hole->first) {
      before->second += hole->second;
      free_granules_.erase(hole);
    }
  }
  return true;
}

size_t DeviceMemory::free_bytes() const {
  const size_t all = std::min(options().device_bytes, kReserved / 2);
  return all > used_ ? all - used_ : 0;
}

bool DeviceMemory::Contains(const void* address, size_t bytes) const {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  if (!Reserved(address)) return false;
  const Range range = ranges_[granules_[(at - address_table.base) / kGranule]];
  return at >= range.begin && at <= range.end && bytes <= range.end - at;
}

char* DeviceMemory::Data(const void* address) const {
  return reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(address) +
                                 address_table.to_data);
}

bool DeviceMemory::Reserved(const void* address) const {
  return reinterpret_cast<uintptr_t>(address) - address_table.base <
         address_table.bytes;
}

void* DeviceMemory::AllocatePinned(size_t bytes) {
  void* const pointer = std::aligned_alloc(
      kAlignment, RoundUp(std::max<size_t>(bytes, 1), kAlignment));
  if (pointer != nullptr) pinned_[reinterpret_cast<uintptr_t>(pointer)] = bytes;
  return pointer;
}

bool DeviceMemory::FreePinned(void* pointer) {
  if (pinned_.erase(reinterpret_cast<uintptr_t>(pointer)) == 0) return false;
  std::free(pointer);
  return true;
}

bool DeviceMemory::IsPinned(const void* pointer, size_t bytes) const {
  const uintptr_t at = reinterpret_cast<uintptr_t>(pointer);
  auto found = pinned_.upper_bound(at);
  if (found == pinned_.begin()) return false;
  --found;
  return at - found->first <= found->second &&
         bytes <= found->second - (at - found->first);
}

}  // namespace engram::emulation

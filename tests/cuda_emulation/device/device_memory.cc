#include "tests/cuda_emulation/device/device_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "tests/cuda_emulation/device/devices.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/refuse.h"
#include "tests/cuda_emulation/device/sanitizer.h"

namespace engram::emulation {
namespace {

// Many times what is given away, for holes between allocations.
constexpr size_t kReserved = 16 * kDeviceBytes;
constexpr size_t kGranule = size_t{1} << AddressTable::kGranuleBits;
constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;

size_t RoundUp(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// Larger memory costs nothing before it is used: it begins as copies of one
// file, which the kernel makes of the pages that are written.
constexpr size_t kFileBytes = size_t{16} << 20;

int FileOfNoNumbers() {
  static const int file = [] {
    const int made = memfd_create("no numbers", 0);
    const std::vector<char> bytes(kFileBytes, static_cast<char>(kNoNumber));
    if (made < 0 || write(made, bytes.data(), kFileBytes) !=
                        static_cast<ssize_t>(kFileBytes)) {
      Refuse(Site::current(), "no file for what device memory begins with");
    }
    return made;
  }();
  return file;
}

// Whole pages that begin as no numbers.
void MakeAccessible(char* begin, size_t bytes) {
  if (bytes < kFileBytes) {
    if (mprotect(begin, bytes, PROT_READ | PROT_WRITE) != 0) {
      Refuse(Site::current(), "no memory for %zu bytes of the device", bytes);
    }
    std::memset(begin, kNoNumber, bytes);
    return;
  }
  for (size_t at = 0; at < bytes; at += kFileBytes) {
    if (mmap(begin + at, std::min(kFileBytes, bytes - at),
             PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED,
             FileOfNoNumbers(), 0) == MAP_FAILED) {
      Refuse(Site::current(), "no memory for %zu bytes of the device", bytes);
    }
  }
}

void MakeInaccessible(char* begin, size_t bytes) {
  if (mmap(begin, bytes, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
           0) == MAP_FAILED) {
    Refuse(Site::current(), "memory of the device cannot be given back");
  }
}

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

namespace {

// Null: not used so far. What a kernel or the host touches by mistake is looked
// for here, by a signal handler too.
std::array<DeviceMemory*, kMostDevices> memories = {};

struct sigaction action_before;

// Says what it was, then lets it happen again as if nobody had asked.
void ExplainFault(int, siginfo_t* fault, void*) {
  if (DeviceMemory::OwnerOf(fault->si_addr) != nullptr) {
    constexpr std::string_view kText =
        "emulated device: memory of the device is touched by the host, or by a "
        "kernel without Load and Store\n";
    [[maybe_unused]] const ssize_t written =
        write(STDERR_FILENO, kText.data(), kText.size());
  }
  sigaction(SIGSEGV, &action_before, nullptr);
}

void ExplainFaults() {
  // Sanitizers have their own words.
  if (kAddressSanitizer || kThreadSanitizer) return;
  struct sigaction action = {};
  action.sa_sigaction = &ExplainFault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &action_before);
}

}  // namespace

void RefuseAddress(const void* address, size_t bytes, const Site& site) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    Refuse(site, "%zu bytes at %p, which is not aligned to as many", bytes,
           address);
  }
  const DeviceMemory* const owner = DeviceMemory::OwnerOf(address);
  if (owner == nullptr) {
    Refuse(site, "%zu bytes at %p, which is no memory of the device", bytes,
           address);
  }
  if (reinterpret_cast<uintptr_t>(address) - address_table.base >=
      address_table.bytes) {
    Refuse(site, "%zu bytes at %p, which is memory of another device, %d",
           bytes, address, owner->device());
  }
  Refuse(site, "%zu bytes at %p, which are in no allocation", bytes, address);
}

DeviceMemory& DeviceMemory::Of(int device) {
  if (memories[device] == nullptr) memories[device] = new DeviceMemory(device);
  static const bool explained = [] {
    ExplainFaults();
    return true;
  }();
  (void)explained;
  return *memories[device];
}

DeviceMemory* DeviceMemory::OwnerOf(const void* address) {
  for (DeviceMemory* const memory : memories) {
    if (memory != nullptr && memory->Reserved(address)) return memory;
  }
  return nullptr;
}

void DeviceMemory::BeReached() const { address_table = table_; }

DeviceMemory::DeviceMemory(int device) : device_(device) {
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
  table_ = {first, kReserved, first_data - first, granules_, ranges_.data()};
}

void* DeviceMemory::Allocate(size_t bytes) {
  const size_t kept = RoundUp(bytes, kAlignment);
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
  const uint32_t range = AddRange({begin, begin + bytes});
  if (range == 0) return nullptr;
  SetRange(first, granules, range);
  const uintptr_t page = begin / kPage * kPage;
  MakeAccessible(reinterpret_cast<char*>(page + table_.to_data),
                 first + granules * kGranule - page);
  allocations_[begin] = range;
  used_ += kept;
  return reinterpret_cast<void*>(begin);
}

bool DeviceMemory::Free(void* address) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  const auto found = allocations_.find(begin);
  if (found == allocations_.end()) return false;
  const Range range = ranges_[found->second];
  const size_t kept = RoundUp(range.end - range.begin, kAlignment);
  const size_t granules = RoundUp(kept, kGranule) / kGranule;
  const uintptr_t first = begin / kGranule * kGranule;
  SetRange(first, granules, 0);
  MakeInaccessible(reinterpret_cast<char*>(first + table_.to_data),
                   granules * kGranule);
  DropRange(found->second);
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

uint32_t DeviceMemory::AddRange(const Range& range) {
  uint32_t number = static_cast<uint32_t>(ranges_.size());
  if (free_ranges_.empty()) {
    // Kernels read them where they lie.
    if (ranges_.size() == ranges_.capacity()) return 0;
    ranges_.push_back({});
  } else {
    number = free_ranges_.back();
    free_ranges_.pop_back();
  }
  ranges_[number] = range;
  return number;
}

void DeviceMemory::DropRange(uint32_t number) {
  ranges_[number] = {1, 0};
  free_ranges_.push_back(number);
}

void DeviceMemory::SetRange(uintptr_t begin, size_t granules, uint32_t number) {
  std::fill_n(granules_ + (begin - table_.base) / kGranule, granules, number);
}

void DeviceMemory::Divide(void* allocation) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(allocation);
  const Range range = ranges_[allocations_.at(begin)];
  const uintptr_t first = begin / kGranule * kGranule;
  SetRange(first, RoundUp(range.end - first, kGranule) / kGranule, 0);
}

void DeviceMemory::BeginPiece(void* piece, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(piece);
  const uint32_t range = AddRange({begin, begin + bytes});
  if (range == 0 || begin % kGranule != 0) {
    Refuse(Site::current(), "a piece that is not aligned, or one too many");
  }
  SetRange(begin, RoundUp(bytes, kGranule) / kGranule, range);
  MakeAccessible(Data(piece), RoundUp(bytes, kPage));
}

void DeviceMemory::EndPiece(void* piece) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(piece);
  const uint32_t number = granules_[(begin - table_.base) / kGranule];
  const Range range = ranges_[number];
  SetRange(begin, RoundUp(range.end - begin, kGranule) / kGranule, 0);
  DropRange(number);
}

size_t DeviceMemory::free_bytes() const { return kDeviceBytes - used_; }

bool DeviceMemory::Contains(const void* address, size_t bytes) const {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  if (!Reserved(address)) return false;
  const Range range = ranges_[granules_[(at - table_.base) / kGranule]];
  return at >= range.begin && at <= range.end && bytes <= range.end - at;
}

char* DeviceMemory::Data(const void* address) const {
  return reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(address) +
                                 table_.to_data);
}

bool DeviceMemory::Reserved(const void* address) const {
  return reinterpret_cast<uintptr_t>(address) - table_.base < table_.bytes;
}

}  // namespace engram::emulation

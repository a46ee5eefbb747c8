// What kernels/cuda/device.h says, for kernels that run as fibres on the host:
// the same names, which besides look for what a device would do wrong without
// a word. What they find ends the process with file, line, thread and block.
#pragma once

#include <cuda_runtime.h>
#include <emulated_site.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace engram::emulation {

// Which memory of the device is somebody's. A device's address is no address of
// the host: its bytes lie `to_data` further, so that who uses it as one is
// stopped by the machine.
struct Range {
  uintptr_t begin;
  uintptr_t end;
};
struct AddressTable {
  static constexpr int kGranuleBits = 12;
  uintptr_t base;
  uintptr_t bytes;
  uintptr_t to_data;
  const uint32_t* granules;  // number of a range, 0: nobody's
  const Range* ranges;
};
extern AddressTable address_table;

[[noreturn]] void RefuseAddress(const void* address, size_t bytes,
                                const Site& site);

// Where the bytes of an access lie, which is to be aligned to its size.
inline char* DataAt(const void* address, size_t bytes, const Site& site) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  const AddressTable& table = address_table;
  const uintptr_t offset = at - table.base;
  if (offset < table.bytes) [[likely]] {
    const Range range =
        table.ranges[table.granules[offset >> AddressTable::kGranuleBits]];
    if (at >= range.begin && at + bytes <= range.end && at % bytes == 0)
        [[likely]] {
      return reinterpret_cast<char*>(at + table.to_data);
    }
  }
  RefuseAddress(address, bytes, site);
}

// Whether somebody counts what kernels do (device/traffic.h), and what the one
// that runs has computed since.
extern bool traffic_is_watched;
struct ComputedWork {
  int64_t matrix_steps = 0;
  int64_t fused_adds = 0;
};
extern ComputedWork computed_work;
void WatchAccess(const void* address, size_t bytes, bool is_store,
                 const Site& site);

inline const char* LoadFrom(const void* address, size_t bytes,
                            const Site& site) {
  if (traffic_is_watched) [[unlikely]] {
    WatchAccess(address, bytes, false, site);
  }
  return DataAt(address, bytes, site);
}
inline char* StoreTo(void* address, size_t bytes, const Site& site) {
  if (traffic_is_watched) [[unlikely]] {
    WatchAccess(address, bytes, true, site);
  }
  return DataAt(address, bytes, site);
}

enum class WarpOperation {
  kBarrier,
  kShuffleXor,
  kShuffleFrom,
  kShuffleUp,
  kBallot,
  kMmaBf16,
  kMmaF16,
  kLoadTurned,
};

void* SharedMemory();
void WaitForBlock(const Site& site);
// What this lane gets when all of its warp have come to the same operation.
uint64_t MeetInWarp(WarpOperation operation, uint64_t value, int argument,
                    const Site& site);
void MultiplyInWarp(WarpOperation operation, float* acc, const uint32_t* a,
                    const uint32_t* b, const Site& site);
void LoadTurnedInWarp(uint32_t* out, const void* row, const Site& site);
void BeginCopy16(void* shared, const void* global, const Site& site);
void CommitCopies();
void FinishCopies(int groups_left);
void WaitForGrid(const Site& site);
void TriggerGrid(const Site& site);
// Where an integer lies that is in global or in shared memory.
void* AtomicAt(void* address, size_t bytes, const Site& site);

template <class T>
T Shuffle(WarpOperation operation, T value, int argument, const Site& site) {
  static_assert(std::is_trivially_copyable_v<T> &&
                (sizeof(T) == 4 || sizeof(T) == 8));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = MeetInWarp(operation, bits, argument, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace engram::emulation

namespace engram::cuda {

using emulation::Site;
using emulation::WarpOperation;

template <class T>
T* DynamicShared() {
  return static_cast<T*>(emulation::SharedMemory());
}

inline void BlockBarrier(const Site& site = Site::current()) {
  emulation::WaitForBlock(site);
}
inline void WarpBarrier(const Site& site = Site::current()) {
  emulation::MeetInWarp(WarpOperation::kBarrier, 0, 0, site);
}

template <class T>
T ShuffleXor(T value, int lane_mask, const Site& site = Site::current()) {
  return emulation::Shuffle(WarpOperation::kShuffleXor, value, lane_mask, site);
}
template <class T>
T ShuffleFrom(T value, int lane, const Site& site = Site::current()) {
  return emulation::Shuffle(WarpOperation::kShuffleFrom, value, lane, site);
}
template <class T>
T ShuffleUp(T value, int delta, const Site& site = Site::current()) {
  return emulation::Shuffle(WarpOperation::kShuffleUp, value, delta, site);
}

inline unsigned Ballot(bool value, const Site& site = Site::current()) {
  return static_cast<unsigned>(
      emulation::MeetInWarp(WarpOperation::kBallot, value, 0, site));
}
inline bool Any(bool value, const Site& site = Site::current()) {
  return Ballot(value, site) != 0;
}
inline bool All(bool value, const Site& site = Site::current()) {
  return Ballot(value, site) == 0xffffffffu;
}

template <class T>
T Load(const T* global, const Site& site = Site::current()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16 &&
                (sizeof(T) & (sizeof(T) - 1)) == 0);
  T value;
  std::memcpy(&value, emulation::LoadFrom(global, sizeof(T), site), sizeof(T));
  return value;
}
template <class T>
void Store(T* global, T value, const Site& site = Site::current()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16 &&
                (sizeof(T) & (sizeof(T) - 1)) == 0);
  std::memcpy(emulation::StoreTo(global, sizeof(T), site), &value, sizeof(T));
}
template <class T>
T LoadConstant(const T* global, const Site& site = Site::current()) {
  return Load(global, site);
}
template <class T>
T LoadStream(const T* global, const Site& site = Site::current()) {
  return Load(global, site);
}
template <class T>
void StoreStream(T* global, T value, const Site& site = Site::current()) {
  Store(global, value, site);
}

// Nothing comes of it but that the address is somebody's.
template <class T>
void Prefetch(const T* global, const Site& site = Site::current()) {
  emulation::DataAt(global, sizeof(T), site);
}

inline void AsyncCopy16(void* shared, const void* global,
                        const Site& site = Site::current()) {
  emulation::BeginCopy16(shared, global, site);
}
inline void AsyncCommit() { emulation::CommitCopies(); }
template <int n>
void AsyncWait() {
  emulation::FinishCopies(n);
}

inline void MmaBf16(float (&acc)[4], const uint32_t (&a)[4],
                    const uint32_t (&b)[2],
                    const Site& site = Site::current()) {
  emulation::MultiplyInWarp(WarpOperation::kMmaBf16, acc, a, b, site);
}
inline void MmaF16(float (&acc)[4], const uint32_t (&a)[4],
                   const uint32_t (&b)[2], const Site& site = Site::current()) {
  emulation::MultiplyInWarp(WarpOperation::kMmaF16, acc, a, b, site);
}

inline void LoadTurned(uint32_t (&out)[4], const void* row,
                       const Site& site = Site::current()) {
  emulation::LoadTurnedInWarp(out, row, site);
}

// In front of that of the library.
inline float fmaf(float x, float y, float z) {
  if (emulation::traffic_is_watched) [[unlikely]] {
    ++emulation::computed_work.fused_adds;
  }
  return ::fmaf(x, y, z);
}

inline float WidenBf16(uint16_t x) {
  const uint32_t bits = uint32_t{x} << 16;
  float y;
  std::memcpy(&y, &bits, sizeof(y));
  return y;
}
float WidenF16(uint16_t x);
uint16_t NarrowBf16(float x);
uint16_t NarrowF16Saturated(float x);
uint2 WidenInt8(uint32_t bytes);

// The types that a device has them for.
template <class T>
concept HasAtomics = std::is_same_v<T, uint32_t> ||
    std::is_same_v<T, int32_t> || std::is_same_v<T, uint64_t>;

template <HasAtomics T>
T AtomicAdd(T* at, std::type_identity_t<T> value,
            const Site& site = Site::current()) {
  return __atomic_fetch_add(
      static_cast<T*>(emulation::AtomicAt(at, sizeof(T), site)), value,
      __ATOMIC_RELAXED);
}
template <HasAtomics T>
T AtomicMax(T* at, std::type_identity_t<T> value,
            const Site& site = Site::current()) {
  T* const data = static_cast<T*>(emulation::AtomicAt(at, sizeof(T), site));
  T before = __atomic_load_n(data, __ATOMIC_RELAXED);
  while (before < value &&
         !__atomic_compare_exchange_n(data, &before, value, false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return before;
}

inline void GridWait(const Site& site = Site::current()) {
  emulation::WaitForGrid(site);
}
inline void GridTrigger(const Site& site = Site::current()) {
  emulation::TriggerGrid(site);
}

}  // namespace engram::cuda

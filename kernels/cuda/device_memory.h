// Memory of devices, and memory of the host that a device copies from and to at
// full speed: one arena each, for all back ends of the process, from which both
// are handed out in pieces.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/memory_arena.h"

namespace engram::cuda {

// What is left to others, and to the driver for graphs and code, of what a
// device has free when its arena is made, unless a limit is given.
inline constexpr size_t kDeviceMemoryReserve = size_t{1536} << 20;

// The arena of the device of that index, which must be current. Where there is
// none it is made, with `limit` bytes at most, 0: what the device has free but
// the reserve; it lives as long as somebody holds it, or a buffer of it.
// INTERNAL if the device fails.
absl::StatusOr<std::shared_ptr<MemoryArena>> DeviceArena(int device,
                                                         size_t limit = 0);

// The host's, page-locked, likewise. `limit`: 0: as much as the system gives.
absl::StatusOr<std::shared_ptr<MemoryArena>> PinnedArena(size_t limit = 0);

// What a piece of so many bytes takes of its arena.
size_t DevicePieceBytes(size_t bytes);
size_t PinnedPieceBytes(size_t bytes);

// A piece of the current device's arena. Not zeroed. Aligned to 4096 bytes.
// RESOURCE_EXHAUSTED with the bytes asked for, those left, and what sets them.
// REQUIRES: whoever destroys it has waited for all that the device does with
// it.
absl::StatusOr<std::unique_ptr<Buffer>> AllocateDeviceMemory(size_t bytes);

// A piece of PinnedArena(); 256-byte aligned. Errors and REQUIRES likewise. Any
// thread may destroy it.
absl::StatusOr<std::unique_ptr<Buffer>> AllocatePinnedMemory(size_t bytes);

}  // namespace engram::cuda

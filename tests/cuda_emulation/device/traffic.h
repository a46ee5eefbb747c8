// Traffic: what kernels read and write of a device's memory, in the units that
// a device moves, and what they compute. What lanes of a warp ask for at one
// place of the source, each for its n-th time, counts as one request: as where
// they go on together.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace engram::emulation {

inline constexpr int64_t kSectorBytes = 32;

struct Traffic {
  int64_t bytes = 0;     // that lanes asked for
  int64_t requests = 0;  // of warps
  // Of all requests; a device moves no less than a sector, and each of them
  // through its second-level cache.
  int64_t sectors = 0;
  // Different ones: what comes from memory, or goes there, at least once.
  int64_t distinct_sectors = 0;
};

struct KernelTraffic {
  const void* kernel = nullptr;  // the function
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // that the launch asked for
  Traffic loads;            // asynchronous copies too
  Traffic stores;
  int64_t matrix_steps = 0;  // of 16 x 8 x 16
  // float32, by fmaf of the kernels; what kernels share with the host has more.
  int64_t fused_adds = 0;
};

// Kernels that run from now on are watched, which makes them ten times slower.
// Not for early threads, nor atomics. Those that Options::kernels_run leaves
// out are told all the same.
void BeginTraffic();
// Those that have run since, in their order.
std::vector<KernelTraffic> EndTraffic();

// For KernelRun: a watched kernel's blocks have run.
struct KernelLaunch;
void EndKernelTraffic(const KernelLaunch& launch);

}  // namespace engram::emulation

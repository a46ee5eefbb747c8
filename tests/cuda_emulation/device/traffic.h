// Traffic: what kernels read and write of a device's memory, in the units that
// a device moves. What lanes of a warp ask for at one place of the source, each
// for its n-th time, counts as one request: as where they go on together.
#pragma once

#include <cuda_runtime.h>

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
  dim3 grid;
  dim3 block;
  Traffic loads;  // asynchronous copies too
  Traffic stores;
};

// Kernels that run from now on are watched, which makes them ten times slower.
// Not for early threads, nor atomics.
void BeginTraffic();
// Those that have run since, in their order.
std::vector<KernelTraffic> EndTraffic();

// For KernelRun: a watched kernel's blocks have run.
void EndKernelTraffic(const dim3& grid, const dim3& block);

}  // namespace engram::emulation

// What tests ask of the emulated device beside the runtime's own functions.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace engram::emulation {

inline constexpr size_t kDeviceBytes = size_t{4} << 30;

struct Options {
  // 8 at most.
  int devices = 1;
  // Of the order of blocks and of threads.
  uint64_t seed = 1;
  // Blocks of a kernel run to their GridWait before the kernel in front of it,
  // as many as have this many threads together.
  int64_t early_threads = 0;
  // Matrix products are summed as Hopper does, in 25 bits behind the point,
  // instead of one float32 after the other.
  bool fused_mma = false;
  // The number of the first kernel, copy or fill that fails, as by
  // PlantError(); 0: none.
  int64_t fails_at = 0;
  // Otherwise they are launched, and nothing happens.
  bool kernels_run = true;
  // Work is done when it is put into a stream, as by a device that is as fast
  // as can be, and not when it is waited for.
  bool at_once = false;
  // Whether there is a cuBLASLt.
  bool cublaslt = true;
};

// Options are those of the environment until they are set:
// ENGRAM_EMULATION_DEVICES, ENGRAM_EMULATION_SEED,
// ENGRAM_EMULATION_EARLY_THREADS, ENGRAM_EMULATION_FUSED_MMA,
// ENGRAM_EMULATION_FAILS_AT, ENGRAM_EMULATION_AT_ONCE,
// ENGRAM_EMULATION_CUBLASLT.
Options& options();

// Memory of the device, and its bytes, that holds nothing when a graph begins:
// what a graph should have written and did not is not what it wrote before.
std::vector<std::pair<void*, size_t>>& poisoned_at_replay();

// What algorithms of the emulated cuBLASLt do with a product.
enum class Algorithm {
  kPlain,         // one sum from zero over ascending steps of 16 inputs
  kSplit,         // two of them, one behind the other, and says so
  kSplitsInside,  // the same, and does not say so
  kAddsFirst,     // kPlain, from what the product is added to
  kRefuses,       // nothing
  kRefusesMany,   // of more than 128 rows nothing; else kPlain
  kNeedsAligned,  // kPlain, for results that begin at multiples of 256 bytes
};
// Those that it offers for each product, best first; at the beginning all of
// them but kRefusesMany, kPlain last.
std::vector<Algorithm>& algorithms();
// How often one was run, or refused to.
int64_t runs(Algorithm algorithm);

// What was done since the process began.
struct Counts {
  int64_t kernels = 0;
  int64_t copies = 0;
  // Asynchronous copies from or to memory that a device cannot reach by itself:
  // they are done at once.
  int64_t pageable_copies = 0;
  int64_t graphs = 0;          // launched
  int64_t instantiations = 0;  // of graphs, for which a device has memory
  // Kernels and fills that were put into a stream by themselves, in no graph.
  int64_t alone = 0;
  // Kernels that begin when all before them is done, and not earlier.
  int64_t in_turn = 0;
  // Calls in which the host waited for work of a stream that was not done.
  int64_t waits = 0;
  // Calls of cudaMalloc and of cudaMallocHost.
  int64_t device_allocations = 0;
  int64_t host_allocations = 0;
  // All of the runtime's functions that answer with an error of the device.
  int64_t calls = 0;
};
Counts counts();

// The n-th (1: the next) kernel, copy or fill that runs fails with `error`;
// after it, so does everything. REQUIRES: an error that stays, as
// cudaErrorIllegalAddress.
void PlantError(int64_t n, cudaError_t error);
// As a new process would find the device, with what it has in memory.
void ClearErrors();

}  // namespace engram::emulation

// How a kernel runs: its blocks one after the other in an order that the seed
// chooses, the threads of a block as fibres.
//
// A fibre runs one thread after the other to its end. Only where a thread has
// to wait for others does another fibre take over, so that kernels without
// barriers cost calls alone.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>

namespace engram::emulation {

struct KernelLaunch {
  std::function<void()> thread;
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
};

// Runs all of it.
void RunKernel(const KernelLaunch& kernel);

}  // namespace engram::emulation

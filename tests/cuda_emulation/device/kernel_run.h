// How a kernel runs: its blocks one after the other in an order that the seed
// chooses, the threads of a block as fibres (block.h).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace engram::emulation {

class Block;

struct KernelLaunch {
  const void* kernel = nullptr;  // the function
  std::function<void()> thread;  // what each thread does
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  bool overlaps = false;  // may begin before the kernel in front has ended
};

class KernelRun {
 public:
  // `in_order`: behind something that no kernel begins before the end of.
  KernelRun(std::shared_ptr<const KernelLaunch> kernel, bool in_order);
  ~KernelRun();

  // Runs blocks to their GridWait, as many as have `threads` together.
  void RunEarly(int64_t threads);
  // Runs what is left.
  void Run();

 private:
  uint3 Index(uint64_t i) const;
  void RunBlocks();

  const std::shared_ptr<const KernelLaunch> kernel_;
  const bool in_order_;
  const uint64_t seed_;
  std::vector<std::unique_ptr<Block>> early_;
};

}  // namespace engram::emulation

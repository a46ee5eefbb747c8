// Graphs: what a device was made to do for a key, kept as a graph that one call
// launches.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "absl/functional/function_ref.h"
#include "kernels/cuda/device_queue.h"

namespace engram::cuda {

// Engine thread only.
class Graphs {
 public:
  Graphs() = default;
  ~Graphs() { Forget(); }
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  // Backend::Replay. The first time `record` runs as it is, which loads its
  // kernels; the second time it is recorded, and from then on launched.
  void Run(DeviceQueue* queue, uint64_t key, absl::FunctionRef<void()> record);

  // Of the graphs that there are, and the device's memory that was less when
  // they were made.
  int64_t count() const { return count_; }
  size_t bytes() const { return bytes_; }

  // Drops all graphs: addresses in them are no longer right. REQUIRES: the
  // queue's operations are done.
  void Forget();

 private:
  // nullptr after an error, which is noted.
  cudaGraphExec_t Make(DeviceQueue* queue, absl::FunctionRef<void()> record);

  // nullptr: `record` has run once.
  std::unordered_map<uint64_t, cudaGraphExec_t> graphs_;
  int64_t count_ = 0;
  size_t bytes_ = 0;
};

}  // namespace engram::cuda

// Graphs: what a device was made to do for a key, kept as a graph that one call
// launches.
#pragma once

#include <cuda_runtime.h>

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

  // Drops all graphs: addresses in them are no longer right. REQUIRES: the
  // queue's operations are done.
  void Forget();

 private:
  // nullptr: `record` has run once.
  std::unordered_map<uint64_t, cudaGraphExec_t> graphs_;
};

}  // namespace engram::cuda

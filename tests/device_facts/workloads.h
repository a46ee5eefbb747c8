// Workloads: kernels as large models launch them, one launch each, with bytes
// that are counted.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/product.h"
#include "kernels/cuda/step_table.h"

namespace engram {

struct Workload {
  std::string name;
  double bytes = 0;       // that it has to read and to write
  double operations = 0;  // of a product's tensor cores
  // Begins it; an error is one of the launch.
  std::function<cudaError_t(cudaStream_t stream)> begin;
};

class Workloads {
 public:
  // On the current device. Each moves 200 MB and more, which no cache has room
  // for; or is as small as can be, to see that it runs.
  explicit Workloads(bool small);

  const std::vector<Workload>& all() const { return all_; }

 private:
  float* Floats(int64_t count);
  Matrix Activations(int64_t tokens, int64_t width);
  cuda::WeightView Weight(int64_t outputs, int64_t inputs);
  // Rows of a token each, in place.
  cuda::StepTable Rows(int64_t count);

  void AddMambaUpdate(int64_t rows, int64_t d_inner);
  void AddSsdUpdate(int64_t rows, int64_t heads);
  void AddH3Update(int64_t rows, int64_t channels);
  void AddProduct(const std::string& name, int64_t tokens, int64_t outputs,
                  int64_t inputs);

  std::vector<std::shared_ptr<void>> memory_;
  std::vector<Workload> all_;
};

}  // namespace engram

// MmaChain: products as nothing but the tensor cores' instruction, step after
// step: what the orders of kernels/cuda/README.md come to on this device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/product.h"

namespace engram {

struct MmaChainArguments {
  // Multiples of 16, 8 and 16.
  int64_t tokens = 0;
  int64_t outputs = 0;
  int64_t inputs = 0;
  int64_t stride = 0;  // values from a row of x or of the weight to the next
  // Of device memory, of float16 or else of bfloat16.
  const uint16_t* x = nullptr;       // [tokens, inputs]
  const uint16_t* weight = nullptr;  // [outputs, inputs]
  bool is_float16 = false;
  // kPlain or kSplit8.
  cuda::ProductOrder order = cuda::ProductOrder::kPlain;
  // Where a lane has the inputs of a step: the four beside each other that
  // products hold, or those that PTX's picture of a fragment shows.
  bool beside = true;
  float* y = nullptr;  // [tokens, outputs] out
};

// Begins y = x Wᵀ on `stream`. An error is one of the launch.
cudaError_t MmaChain(cudaStream_t stream, const MmaChainArguments& arguments);

}  // namespace engram

// What lies around a product that cuBLASLt computes: its inputs in the weight's
// type, what becomes of its sums, and numbers to prove it with.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/product.h"
#include "kernels/operations.h"

namespace engram::cuda {

// Each begins on `stream`; an error is one of the launch.

// x of the product as its kernels round it. REQUIRES: a weight of 16 bits that
// takes x as one term.
//   rounded  [tokens, weight.stride] of the weight's type, zeros behind the
//            last input; 16-byte aligned
cudaError_t RoundInputs(cudaStream_t stream, const ProductArguments& product,
                        void* rounded);

// y of the product, of its sums. They may be in y's place, unless they are
// added to it.
//   sums  [tokens, outputs]
cudaError_t FinishSums(cudaStream_t stream, const ProductArguments& product,
                       ConstMatrix sums);

// Numbers from 1/8 to 2 of both signs, whose last bit is one: sums of them
// depend on their order. The same for a seed. REQUIRES: not IsQuantised.
cudaError_t FillWithOdd(cudaStream_t stream, WeightFormat format, void* values,
                        int64_t count, uint32_t seed);

// Adds to *differences, of the device, unless all bits of a and b are equal.
cudaError_t CountDifferences(cudaStream_t stream, const float* a,
                             const float* b, int64_t count,
                             uint32_t* differences);

}  // namespace engram::cuda

// Depthwise causal convolution with its window, followed by SiLU.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

struct CausalConv1dArguments {
  int64_t channels = 0;
  int64_t d_conv = 0;
  ConstMatrix x;
  const float* weight = nullptr;
  const float* bias = nullptr;
  float* conv_state = nullptr;
  Matrix y;
};

// See Backend::CausalConv1d.
void CausalConv1d(ThreadPool& threads, Rows rows,
                  const CausalConv1dArguments& arguments);

}  // namespace engram::cpu

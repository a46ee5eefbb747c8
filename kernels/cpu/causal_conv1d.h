// Depthwise causal convolution with its window.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// See Backend::CausalConv1d.
void CausalConv1d(ThreadPool& threads, const StepRows& step,
                  const CausalConv1dArguments& arguments);

}  // namespace engram::cpu

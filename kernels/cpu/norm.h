// RMSNorm and LayerNorm.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// See Backend::Norm.
void Norm(ThreadPool& threads, const NormWeights& norm, int64_t tokens,
          int64_t d_model, const float* residual, float* normed);

}  // namespace engram::cpu

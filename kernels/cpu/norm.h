// RMSNorm and LayerNorm, and the norm behind a gate.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// See Backend::Norm.
void Norm(ThreadPool& threads, const NormWeights& norm, int64_t tokens,
          int64_t d_model, const float* residual, Matrix normed);

// See Backend::GatedNorm.
void GatedNorm(ThreadPool& threads, const GatedNormArguments& arguments);

}  // namespace engram::cpu

// Operations that only move or look at single elements.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// See Backend::Embed.
void Embed(ThreadPool& threads, const PackedMatrix& table,
           absl::Span<const int32_t> ids, float* residual);

// See Backend::AddRows.
void AddRows(const float* table, absl::Span<const int32_t> indices,
             int64_t width, Matrix target);

// See Backend::Gather.
void Gather(ConstMatrix source, absl::Span<const int32_t> indices,
            int64_t width, Matrix target);

// See Backend::AllFinite.
void AllFinite(ConstMatrix x, int64_t rows, int64_t width,
               absl::Span<uint8_t> finite);

}  // namespace engram::cpu

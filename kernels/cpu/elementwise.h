// Operations that only move or look at single elements.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// See Backend::Embed.
void Embed(ThreadPool& threads, const StepRows& step, const PackedMatrix& table,
           float* residual);

// See Backend::AddPositions.
void AddPositions(const StepRows& step, const float* table, int64_t width,
                  Matrix target);

// See Backend::CopyRows.
void CopyRows(ConstMatrix source, absl::Span<const int32_t> from, int64_t width,
              Matrix target, absl::Span<const int32_t> to);

// See Backend::FiniteRows.
void FiniteRows(const StepRows& step, ConstMatrix x, int64_t width,
                absl::Span<uint8_t> finite);

}  // namespace engram::cpu

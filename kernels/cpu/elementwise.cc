// Bound by memory: Embed reads 4 bytes per element, one cache line each because
// a row of a packed table is spread over its panel, and writes 4; CopyRows
// reads and writes 4; FiniteRows reads 4.
#include "kernels/cpu/elementwise.h"

#include <cstring>

#include "kernels/tensor.h"

namespace engram::cpu {

void Embed(ThreadPool& threads, const StepRows& step, const PackedMatrix& table,
           float* residual) {
  // An item is a token. Its values lie on a line each.
  constexpr int64_t kValueNs = 2;
  threads.ParallelFor(step.tokens(), kValueNs * step.tokens() * table.inputs(),
                      [&](int64_t token) {
                        table.CopyRow(step.ids()[token],
                                      residual + token * table.inputs());
                      });
}

void AddPositions(const StepRows& step, const float* table, int64_t width,
                  Matrix target) {
  for (const Row& row : step.rows()) {
    for (int64_t t = 0; t < row.tokens; ++t) {
      const float* const source = table + (row.position + t) * width;
      float* const token = target.floats() + (row.offset + t) * target.stride;
      for (int64_t j = 0; j < width; ++j) token[j] += source[j];
    }
  }
}

void CopyRows(ConstMatrix source, absl::Span<const int32_t> from, int64_t width,
              Matrix target, absl::Span<const int32_t> to) {
  for (size_t i = 0; i < from.size(); ++i) {
    std::memcpy(target.floats() + to[i] * target.stride,
                source.floats() + from[i] * source.stride,
                width * sizeof(float));
  }
}

void FiniteRows(const StepRows& step, ConstMatrix x, int64_t width,
                absl::Span<uint8_t> finite) {
  for (size_t i = 0; i < step.rows().size(); ++i) {
    const Row& row = step.rows()[i];
    finite[i] = 1;
    for (int64_t t = 0; t < row.tokens; ++t) {
      const absl::Span<const float> values(
          x.floats() + (row.offset + t) * x.stride, width);
      if (FirstNonFinite(values) >= 0) finite[i] = 0;
    }
  }
}

}  // namespace engram::cpu

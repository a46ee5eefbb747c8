// Bound by memory: Embed reads 4 bytes per element, one cache line each because
// a row of a packed table is spread over its panel, and writes 4; Gather reads
// and writes 4; AllFinite reads 4.
#include "kernels/cpu/elementwise.h"

#include <cstring>

#include "kernels/status.h"
#include "kernels/tensor.h"

namespace engram::cpu {

void Embed(ThreadPool& threads, const PackedMatrix& table,
           absl::Span<const int32_t> ids, float* residual) {
  // An item is a token. Its values lie on a line each.
  constexpr int64_t kValueNs = 2;
  const auto tokens = static_cast<int64_t>(ids.size());
  threads.ParallelFor(tokens, kValueNs * tokens * table.inputs(),
                      [&](int64_t token) {
                        const int64_t id = ids[token];
                        ENGRAM_CHECK(id >= 0 && id < table.outputs());
                        table.CopyRow(id, residual + token * table.inputs());
                      });
}

void AddRows(const float* table, absl::Span<const int32_t> indices,
             int64_t width, Matrix target) {
  for (size_t i = 0; i < indices.size(); ++i) {
    const float* const source = table + indices[i] * width;
    float* const row = target.data + static_cast<int64_t>(i) * target.stride;
    for (int64_t j = 0; j < width; ++j) row[j] += source[j];
  }
}

void Gather(ConstMatrix source, absl::Span<const int32_t> indices,
            int64_t width, Matrix target) {
  for (size_t i = 0; i < indices.size(); ++i) {
    std::memcpy(target.data + static_cast<int64_t>(i) * target.stride,
                source.data + indices[i] * source.stride,
                width * sizeof(float));
  }
}

void AllFinite(ConstMatrix x, int64_t rows, int64_t width,
               absl::Span<uint8_t> finite) {
  ENGRAM_CHECK(static_cast<int64_t>(finite.size()) >= rows);
  for (int64_t row = 0; row < rows; ++row) {
    const absl::Span<const float> values(x.data + row * x.stride, width);
    finite[row] = FirstNonFinite(values) < 0 ? 1 : 0;
  }
}

}  // namespace engram::cpu

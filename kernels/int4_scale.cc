#include "kernels/int4_scale.h"

#include <algorithm>
#include <cmath>

#include "kernels/tensor.h"

namespace engram {
namespace {

constexpr float kLargest = 15.0f;
// By how many steps more than 15 a fit begins to divide what there is between
// the least and the largest value.
constexpr float kFinerSteps[] = {0.3f, 1.2f};
// Sums in parts that do not wait for each other.
constexpr size_t kParts = 4;

// One step of a grid of 16 integers, and where it begins.
struct Grid {
  float step = 0;
  float begin = 0;
};

float NearestInteger(float value, float begin, float inverse) {
  // Beside this number only integers are left, to which the sum is rounded.
  constexpr float kOnlyIntegers = 12582912.0f;
  const float place =
      std::min(std::max((value - begin) * inverse, 0.0f), kLargest);
  return (place + kOnlyIntegers) - kOnlyIntegers;
}

float InverseOf(float step) { return step == 0 ? 0 : 1 / step; }

float SumOf(const float (&parts)[kParts]) {
  return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

Grid GridOf(Int4Scale scale) {
  return {WidenFloat16(scale.scale), WidenFloat16(scale.minimum)};
}

Int4Scale Narrowed(Grid grid) {
  return {NarrowToFloat16(grid.step), NarrowToFloat16(grid.begin)};
}

// The squares of what is lost.
float ErrorOf(absl::Span<const float> values, Grid grid) {
  const float inverse = InverseOf(grid.step);
  float parts[kParts] = {};
  for (size_t i = 0; i < values.size(); ++i) {
    const float integer = NearestInteger(values[i], grid.begin, inverse);
    const float error = values[i] - (integer * grid.step + grid.begin);
    parts[i % kParts] += error * error;
  }
  return SumOf(parts);
}

// The grid on which the integers that `values` have on the given one come
// nearest to them; that one itself if they are all the same.
Grid Fitted(absl::Span<const float> values, Grid grid) {
  const float inverse = InverseOf(grid.step);
  float integers[kParts] = {}, squares[kParts] = {};
  float offsets[kParts] = {}, products[kParts] = {};
  for (size_t i = 0; i < values.size(); ++i) {
    const float integer = NearestInteger(values[i], grid.begin, inverse);
    const float offset = values[i] - grid.begin;
    integers[i % kParts] += integer;
    squares[i % kParts] += integer * integer;
    offsets[i % kParts] += offset;
    products[i % kParts] += integer * offset;
  }
  const auto count = static_cast<float>(values.size());
  const float sum = SumOf(integers), offset_sum = SumOf(offsets);
  const float spread = count * SumOf(squares) - sum * sum;
  if (spread <= 0) return grid;
  const float step = (count * SumOf(products) - sum * offset_sum) / spread;
  return {step, grid.begin + (offset_sum - step * sum) / count};
}

}  // namespace

Int4Scale FitInt4Scale(absl::Span<const float> values) {
  const auto [least, largest] =
      std::minmax_element(values.begin(), values.end());
  const float begin = WidenFloat16(NarrowToFloat16(*least));
  Int4Scale best =
      Narrowed({std::max(0.0f, (*largest - begin) / kLargest), begin});
  float best_error = ErrorOf(values, GridOf(best));
  for (const float finer : kFinerSteps) {
    if (best_error == 0) break;
    const float step = (*largest - *least) / (kLargest + finer);
    const Int4Scale fitted =
        Narrowed(Fitted(values, {step, *least + finer / 2 * step}));
    const Grid grid = GridOf(fitted);
    if (!std::isfinite(grid.begin)) continue;
    const float error = ErrorOf(values, grid);
    if (error < best_error) {
      best = fitted;
      best_error = error;
    }
  }
  return best;
}

void RoundToInt4(absl::Span<const float> values, Int4Scale scale,
                 uint8_t* integers) {
  const Grid grid = GridOf(scale);
  const float inverse = InverseOf(grid.step);
  for (size_t i = 0; i < values.size(); ++i) {
    integers[i] =
        static_cast<uint8_t>(NearestInteger(values[i], grid.begin, inverse));
  }
}

}  // namespace engram

// The recurrences, the gate's norm and attention of the CUDA back end are, to
// the bit, computed in the order that their files tell, whatever kernel does
// it: one for rows of a token or for longer ones, with states in registers or
// in memory. Here one number is computed after the other.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/activations.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/status.h"
#include "tests/kernels/attention_test_case.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

class CudaOrderTest : public ::testing::Test {
 protected:
  CudaOrderTest() {
    auto backend = MakeCudaBackend();
    ENGRAM_CHECK_OK(backend.status());
    backend_ = *std::move(backend);
  }
  Backend& backend() { return *backend_; }

 private:
  std::unique_ptr<Backend> backend_;
};

// Sums of neighbours, then of neighbouring sums, and so on.
template <size_t kCount>
float TreeSum(std::array<float, kCount> sums) {
  for (size_t width = 1; width < kCount; width *= 2) {
    for (size_t i = 0; i < kCount; i += 2 * width) sums[i] += sums[i + width];
  }
  return sums[0];
}

// What a warp has after exchanges 16, 8, 4, 2 and 1 lanes apart.
float WarpSum(std::array<float, 32> lanes) {
  for (size_t half = 16; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// Runs all tokens of `whole` as one row, and one by one: both are as `in_order`
// computes them.
template <class Case>
void ExpectIs(Backend& backend, const Case& whole,
              Floats (*in_order)(const Case&, Floats& state)) {
  const Floats before = RandomFloats(6, whole.StateFloats());
  Floats expected_state = before;
  const Floats expected_y = in_order(whole, expected_state);
  const int tokens = static_cast<int>(whole.tokens);
  Floats state = before;
  const std::vector<SlotRow> row = {{0, 0, tokens}};
  ExpectSameBits(whole.Run(backend, row, state), expected_y);
  ExpectSameBits(state, expected_state);
  state = before;
  Floats y;
  const std::vector<SlotRow> token = {{0, 0, 1}};
  for (int t = 0; t < tokens; ++t) {
    const Floats part = whole.Part(t, 1).Run(backend, token, state);
    y.insert(y.end(), part.begin(), part.end());
  }
  ExpectSameBits(y, expected_y);
  ExpectSameBits(state, expected_state);
}

Floats SelectiveScanInOrder(const ScanCase& scan, Floats& state) {
  const int64_t width = scan.d_inner, share = (scan.d_state + 3) / 4;
  Floats y(scan.tokens * width);
  for (int64_t t = 0; t < scan.tokens; ++t) {
    for (int64_t e = 0; e < width; ++e) {
      const float x = scan.x[t * width + e];
      const float delta =
          cuda::Softplus(scan.dt[t * width + e] + scan.dt_bias[e]);
      std::array<float, 4> quarters = {};
      for (int64_t n = 0; n < scan.d_state; ++n) {
        float& h = state[n * width + e];
        h = std::fmaf(cuda::Exp(delta * scan.a[n * width + e]), h,
                      scan.b[t * scan.d_state + n] * (delta * x));
        float& sum = quarters[n / share];
        sum = std::fmaf(scan.c[t * scan.d_state + n], h, sum);
      }
      y[t * width + e] = std::fmaf(scan.d[e], x, TreeSum(quarters)) *
                         cuda::Silu(scan.z[t * width + e]);
    }
  }
  return y;
}

TEST_F(CudaOrderTest, OfSelectiveScanIsByQuartersOfTheStates) {
  for (const int64_t d_state : {1, 5, 16, 17, 64, 70}) {
    SCOPED_TRACE(testing::Message() << d_state << " states");
    const ScanCase scan(19, d_state, 20);
    ExpectIs(backend(), scan, SelectiveScanInOrder);
  }
}

Floats SsdScanInOrder(const SsdScanCase& scan, Floats& state) {
  const int64_t width = scan.d_inner(), share = (scan.d_state + 7) / 8;
  const int64_t lines = scan.groups * scan.d_state;
  Floats y(scan.tokens * width);
  for (int64_t t = 0; t < scan.tokens; ++t) {
    for (int64_t e = 0; e < width; ++e) {
      const int64_t head = e / scan.head_dim, p = e % scan.head_dim;
      const int64_t group = head / (scan.heads / scan.groups);
      const float x = scan.x[t * width + e];
      const float delta =
          cuda::Softplus(scan.dt[t * scan.heads + head] + scan.dt_bias[head]);
      const float decay = cuda::Exp(delta * scan.a[head]);
      std::array<float, 8> eighths = {};
      for (int64_t n = 0; n < scan.d_state; ++n) {
        const int64_t line = t * lines + group * scan.d_state + n;
        float& h = state[(head * scan.d_state + n) * scan.head_dim + p];
        h = std::fmaf(decay, h, (x * delta) * scan.b[line]);
        float& sum = eighths[n / share];
        sum = std::fmaf(scan.c[line], h, sum);
      }
      y[t * width + e] = std::fmaf(scan.d[head], x, TreeSum(eighths));
    }
  }
  return y;
}

TEST_F(CudaOrderTest, OfSsdScanIsByEighthsOfTheStates) {
  for (const int64_t d_state : {1, 9, 128, 130}) {
    SCOPED_TRACE(testing::Message() << d_state << " states");
    const SsdScanCase scan(4, 2, 37, d_state, 11);
    ExpectIs(backend(), scan, SsdScanInOrder);
  }
}

Floats DiagonalScanInOrder(const DiagonalScanCase& scan, Floats& state) {
  const int64_t width = scan.channels, share = (scan.pairs + 3) / 4;
  Floats y(scan.tokens * width);
  for (int64_t t = 0; t < scan.tokens; ++t) {
    for (int64_t e = 0; e < width; ++e) {
      const float p = scan.p[t * width + e];
      std::array<float, 4> quarters = {};
      for (int64_t n = 0; n < scan.pairs; ++n) {
        const int64_t at_real = 2 * n * width + e;
        const int64_t at_imaginary = at_real + width;
        const float re = state[at_real], im = state[at_imaginary];
        const float real =
            std::fmaf(scan.decay[at_real], re,
                      std::fmaf(-scan.decay[at_imaginary], im, p));
        const float imaginary =
            std::fmaf(scan.decay[at_imaginary], re, scan.decay[at_real] * im);
        float& sum = quarters[n / share];
        sum = std::fmaf(scan.read[at_real], real, sum);
        sum = std::fmaf(-scan.read[at_imaginary], imaginary, sum);
        state[at_real] = real;
        state[at_imaginary] = imaginary;
      }
      y[t * width + e] =
          std::fmaf(scan.d[e], p, TreeSum(quarters)) * scan.gate[t * width + e];
    }
  }
  return y;
}

TEST_F(CudaOrderTest, OfDiagonalScanIsByQuartersOfThePairs) {
  for (const int64_t pairs : {1, 6, 32, 35}) {
    SCOPED_TRACE(testing::Message() << pairs << " pairs");
    const DiagonalScanCase scan(19, pairs, 20);
    ExpectIs(backend(), scan, DiagonalScanInOrder);
  }
}

TEST_F(CudaOrderTest, OfTheGatesNormIsByThreadsThenWarps) {
  for (const int64_t width : {7, 300, 1100}) {
    SCOPED_TRACE(testing::Message() << "width " << width);
    const GatedNormCase norm(2 * width, 2, 3);
    Floats expected(norm.y.size());
    for (int64_t first = 0; first < norm.tokens * 2 * width; first += width) {
      std::array<std::array<float, 32>, 8> threads = {};
      for (int64_t i = 0; i < width; ++i) {
        expected[first + i] = norm.y[first + i] * cuda::Silu(norm.z[first + i]);
        float& sum = threads[i / 4 % 256 / 32][i / 4 % 32];
        sum = std::fmaf(expected[first + i], expected[first + i], sum);
      }
      float sum = WarpSum(threads[0]);
      for (int warp = 1; warp < 8; ++warp) sum += WarpSum(threads[warp]);
      const float mean = sum / static_cast<float>(width);
      const float scale = 1.0f / std::sqrt(mean + 1e-5f);
      for (int64_t i = 0; i < width; ++i) {
        expected[first + i] =
            expected[first + i] * scale * norm.weight[first % (2 * width) + i];
      }
    }
    ExpectSameBits(norm.Run(backend()), expected);
  }
}

// One head's answer to token `t`, channel by channel.
class AttentionInOrder {
 public:
  AttentionInOrder(const AttentionSequence& sequence, int64_t t)
      : sequence_(sequence), t_(t), values_(sequence.shape.head_dim) {
    for (int64_t first = 0; first <= t; first += 256) {
      AddSegment(first, std::min(first + 256, t + 1));
    }
    for (float& value : values_) value /= sum_;
  }
  const Floats& values() const { return values_; }

 private:
  void AddSegment(int64_t first, int64_t end) {
    const int64_t dim = sequence_.shape.head_dim;
    Floats weights;
    for (int64_t key = first; key < end; ++key) {
      float score = 0;
      for (int64_t d = 0; d < dim; ++d) {
        score = std::fmaf(sequence_.q[t_ * dim + d], sequence_.k[key * dim + d],
                          score);
      }
      weights.push_back(score * sequence_.shape.Scale());
    }
    const float largest = *std::max_element(weights.begin(), weights.end());
    std::array<float, 32> sums = {};
    Floats values(dim);
    for (int64_t key = first; key < end; ++key) {
      const float weight = cuda::Exp(weights[key - first] - largest);
      sums[key % 32] += weight;
      for (int64_t d = 0; d < dim; ++d) {
        values[d] = std::fmaf(weight, sequence_.v[key * dim + d], values[d]);
      }
    }
    const float larger = std::max(maximum_, largest);
    const float old_factor = cuda::Exp(maximum_ - larger);
    const float factor = cuda::Exp(largest - larger);
    maximum_ = larger;
    sum_ = std::fmaf(sum_, old_factor, WarpSum(sums) * factor);
    for (int64_t d = 0; d < dim; ++d) {
      values_[d] = std::fmaf(values_[d], old_factor, values[d] * factor);
    }
  }

  const AttentionSequence& sequence_;
  const int64_t t_;
  Floats values_;
  float maximum_ = -std::numeric_limits<float>::infinity();
  float sum_ = 0;
};

TEST_F(CudaOrderTest, OfAttentionIsBySegmentsOf256Keys) {
  // By kernels for heads of any width, and for those of a multiple of four.
  for (const int64_t head_dim : {5, 20}) {
    const AttentionShape shape{1, head_dim, 0};
    const int64_t tokens = 600;
    std::vector<int32_t> blocks(tokens / kKeyValueBlockTokens + 1);
    for (size_t i = 0; i < blocks.size(); ++i) {
      blocks[i] = static_cast<int32_t>(i);
    }
    AttentionSequence sequence(shape, 60, tokens, blocks);
    Floats memory(blocks.size() * shape.BlockFloats());
    AttentionStep(backend(), {{&sequence, tokens}}, memory);
    for (int64_t t = 0; t < tokens; ++t) {
      SCOPED_TRACE(testing::Message() << "token " << t << ", " << head_dim);
      ExpectSameBits(Slice(sequence.y, t, 1, head_dim),
                     AttentionInOrder(sequence, t).values());
    }
  }
}

}  // namespace
}  // namespace engram

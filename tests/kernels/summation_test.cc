// Rounding and order of summation are what kernels/backend.h says, to the bit:
// other back ends, and whoever checks one, can compute them.
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "tests/kernels/backend_under_test.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

class SummationTest : public BackendUnderTestSuite {
 protected:
  void SetUp() override {
    if (GetParam().name == "Baseline") {
      GTEST_SKIP() << "this machine has no fused multiply-add in its baseline";
    }
    BackendUnderTestSuite::SetUp();
  }
};

TEST_P(SummationTest, OfProductsIsAscendingThenBiasThenWhatWasThere) {
  for (const int64_t inputs : {1, 7, 64, 300}) {
    const int64_t outputs = 37;
    MatMulCase product(outputs, inputs);
    product.bias = RandomFloats(6, outputs);
    for (const int64_t tokens : {1, 3, 50}) {
      const Floats x = RandomFloats(5, tokens * inputs);
      const Floats before = RandomFloats(7, tokens * outputs);
      Floats stored, added;
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t output = 0; output < outputs; ++output) {
          float sum = 0;
          for (int64_t k = 0; k < inputs; ++k) {
            sum = std::fmaf(x[t * inputs + k],
                            product.weight[output * inputs + k], sum);
          }
          sum = sum + product.bias[output];
          stored.push_back(sum);
          added.push_back(before[t * outputs + output] + sum);
        }
      }
      ExpectSameBits(product.Run(backend(), x), stored);
      ExpectSameBits(product.Run(backend(), x, before, true), added);
    }
  }
}

TEST_P(SummationTest, OfNormsIsATreeOfSixteen) {
  for (const int64_t d_model : {1, 15, 16, 17, 100, 768}) {
    const Floats x = RandomFloats(1, d_model, -3.0f, 5.0f);
    const Floats weight = RandomFloats(2, d_model);
    float partials[16] = {};
    for (int64_t i = 0; i < d_model; ++i) {
      partials[i % 16] = std::fmaf(x[i], x[i], partials[i % 16]);
    }
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i)
        partials[i] = partials[i] + partials[i + half];
    }
    const float mean = partials[0] / static_cast<float>(d_model);
    const float scale = 1.0f / std::sqrt(mean + 1e-5f);
    Floats expected;
    for (int64_t i = 0; i < d_model; ++i) {
      const float scaled = x[i] * scale;
      expected.push_back(scaled * weight[i]);
    }
    DeviceFloats residual(backend(), x), device_weight(backend(), weight);
    DeviceFloats normed(backend(), Floats(d_model));
    backend().Norm({NormKind::kRms, device_weight.data(), nullptr, 1e-5f}, 1,
                   d_model, residual.data(), {normed.data(), d_model});
    ExpectSameBits(normed.ToHost(), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, SummationTest,
                         ::testing::ValuesIn(CpuBackendsUnderTest()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace engram

// What device-facts looks at by: chains of the tensor cores' instruction are
// what products give, and kernels are launched as they can be.
#include <cuda_runtime.h>

#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/device_facts/device_array.h"
#include "tests/device_facts/mma_chain.h"
#include "tests/device_facts/mma_facts.h"
#include "tests/device_facts/workloads.h"
#if defined(ENGRAM_CUDA_EMULATION)
#include "tests/cuda_emulation/device/emulation.h"
#endif

namespace engram {
namespace {

using cuda::ProductOrder;

struct Shape {
  int64_t outputs;
  int64_t inputs;
  bool is_float16;
};

class MmaChainTest : public ::testing::TestWithParam<Shape> {
 protected:
  static constexpr int64_t kTokens = 32;

  std::vector<float> ByChain() const {
    const DeviceArray<uint16_t> x(x_);
    const DeviceArray<float> y(std::vector<float>(kTokens * outputs()));
    MmaChainArguments arguments;
    arguments.tokens = kTokens;
    arguments.outputs = outputs();
    arguments.inputs = arguments.stride = inputs();
    arguments.x = x.data();
    arguments.weight = weight_.data();
    arguments.is_float16 = GetParam().is_float16;
    arguments.order = cuda::OrderOf(outputs(), inputs());
    arguments.y = y.data();
    EXPECT_EQ(MmaChain(nullptr, arguments), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    return y.ToHost();
  }
  // Of the first tokens.
  std::vector<float> ByProduct(int64_t tokens) const {
    const DeviceArray<float> y(std::vector<float>(tokens * outputs()));
    cuda::WeightView view;
    view.values = weight_.data();
    view.outputs = outputs();
    view.inputs = view.stride = inputs();
    view.format = GetParam().is_float16 ? WeightFormat::kFloat16
                                        : WeightFormat::kBFloat16;
    EXPECT_EQ(
        cuda::Product(
            nullptr, cuda::ArgumentsOf(view, tokens, {floats_.data(), inputs()},
                                       {}, {y.data(), outputs()})),
        cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    return y.ToHost();
  }

  int64_t outputs() const { return GetParam().outputs; }
  int64_t inputs() const { return GetParam().inputs; }

 private:
  const std::vector<uint16_t> x_ =
      RandomHalves(GetParam().is_float16, 1, kTokens* inputs());
  const DeviceArray<float> floats_{Widened(GetParam().is_float16, x_)};
  const DeviceArray<uint16_t> weight_{
      RandomHalves(GetParam().is_float16, 2, outputs() * inputs())};
};

TEST_P(MmaChainTest, IsWhatProductsGiveWhateverTheNumberOfTokens) {
  const std::vector<float> expected = ByChain();
  for (const int64_t tokens : {1, 8, 9, 32}) {
    SCOPED_TRACE(tokens);
    const std::vector<float> y = ByProduct(tokens);
    EXPECT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)),
              0);
  }
}

// Of split8, and of plain, which only large weights are.
INSTANTIATE_TEST_SUITE_P(OfAllOrders, MmaChainTest,
                         ::testing::Values(Shape{64, 576, false},
                                           Shape{24, 1104, true},
                                           Shape{9768, 1024, false}));

TEST(Workloads, RunOnThisDevice) {
  const Workloads workloads(/*small=*/true);
  EXPECT_EQ(workloads.all().size(), 6);
  for (const Workload& workload : workloads.all()) {
    SCOPED_TRACE(workload.name);
    EXPECT_GT(workload.bytes, 0);
    EXPECT_EQ(workload.begin(nullptr), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
}

#if defined(ENGRAM_CUDA_EMULATION)
TEST(MmaFacts, TellHowTheDeviceAdds) {
  for (const bool is_float16 : {false, true}) {
    emulation::options().fused_mma = true;
    const MmaFacts fused = FindMmaFacts(is_float16);
    EXPECT_EQ(fused.sums, 64 * 64);
    EXPECT_EQ(fused.unlike_host, 0);
    EXPECT_EQ(fused.unlike_by_place, 0);
    emulation::options().fused_mma = false;
    const MmaFacts in_order = FindMmaFacts(is_float16);
    EXPECT_GT(in_order.unlike_host, 0);
    EXPECT_GT(in_order.unlike_by_place, 0);
  }
}
#endif

}  // namespace
}  // namespace engram

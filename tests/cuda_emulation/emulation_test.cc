// The emulated device does what a device does.
#include "tests/cuda_emulation/device/emulation.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda_emulation/first_kernel.h"

namespace engram::emulation {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// A stream, and pinned and device memory of `floats` values each.
class EmulationTest : public ::testing::Test {
 protected:
  static constexpr int kBlocks = 3;
  static constexpr int kValues = 256 * kBlocks;

  void SetUp() override {
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
              cudaSuccess);
    ASSERT_EQ(cudaMalloc(&values_, kValues * sizeof(float)), cudaSuccess);
    ASSERT_EQ(cudaMalloc(&sums_, kBlocks * sizeof(float)), cudaSuccess);
    ASSERT_EQ(cudaMallocHost(&host_, kValues * sizeof(float)), cudaSuccess);
  }
  void TearDown() override {
    ClearErrors();
    EXPECT_EQ(cudaFreeHost(host_), cudaSuccess);
    EXPECT_EQ(cudaFree(sums_), cudaSuccess);
    EXPECT_EQ(cudaFree(values_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
  }

  void Upload(float value) {
    std::fill_n(host_, kValues, value);
    ASSERT_EQ(cudaMemcpyAsync(values_, host_, kValues * sizeof(float),
                              cudaMemcpyHostToDevice, stream_),
              cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  }
  std::vector<float> Download(const float* device, int count) {
    EXPECT_EQ(cudaMemcpyAsync(host_, device, count * sizeof(float),
                              cudaMemcpyDeviceToHost, stream_),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return {host_, host_ + count};
  }

  cudaStream_t stream_ = nullptr;
  float* values_ = nullptr;
  float* sums_ = nullptr;
  float* host_ = nullptr;
};

TEST_F(EmulationTest, AKernelRunsWithBarriersAndShuffles) {
  Upload(0.5f);
  ASSERT_EQ(cuda::SumAndDouble(stream_, kBlocks, values_, sums_), cudaSuccess);
  EXPECT_THAT(Download(sums_, kBlocks), ElementsAre(128, 128, 128));
  EXPECT_THAT(Download(values_, kValues), Each(1.0f));
}

TEST_F(EmulationTest, AGraphDoesAgainWhatWasCaptured) {
  Upload(1);
  ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
            cudaSuccess);
  ASSERT_EQ(cuda::SumAndDouble(stream_, kBlocks, values_, sums_), cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_THAT(Download(values_, kValues), Each(1.0f)) << "captured, not run";
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(cudaGraphLaunch(exec, stream_), cudaSuccess);
  }
  EXPECT_THAT(Download(values_, kValues), Each(8.0f));
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_F(EmulationTest, MemoryIsNoNumberUntilItIsWritten) {
  for (const float value : Download(values_, kValues)) {
    EXPECT_TRUE(std::isnan(value));
  }
}

TEST_F(EmulationTest, APlantedErrorStays) {
  Upload(1);
  PlantError(1, cudaErrorIllegalAddress);
  EXPECT_EQ(cuda::SumAndDouble(stream_, kBlocks, values_, sums_), cudaSuccess)
      << "the launch itself knows nothing of it";
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorIllegalAddress);
  EXPECT_EQ(cuda::SumAndDouble(stream_, kBlocks, values_, sums_),
            cudaErrorIllegalAddress);
}

}  // namespace
}  // namespace engram::emulation

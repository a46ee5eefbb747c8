#include "tests/cuda_emulation/device/traffic.h"

#include <cuda_runtime.h>

#include <vector>

#include "gtest/gtest.h"
#include "tests/cuda_emulation/device_test_case.h"
#include "tests/cuda_emulation/first_kernel.h"
#include "tests/cuda_emulation/strided_kernel.h"

namespace engram::emulation {
namespace {

class TrafficTest : public DeviceTestCase {
 protected:
  void SetUp() override {
    DeviceTestCase::SetUp();
    Upload(values_, 1);
    BeginTraffic();
  }
  std::vector<KernelTraffic> Finish() {
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return EndTraffic();
  }
};

TEST_F(TrafficTest, CountsWhatWarpsAskForInSectors) {
  ASSERT_EQ(cuda::SumAndDouble(stream_, 3, values_, others_), cudaSuccess);
  const std::vector<KernelTraffic> kernels = Finish();
  ASSERT_EQ(kernels.size(), 1u);
  EXPECT_EQ(kernels[0].grid.x, 3u);
  EXPECT_EQ(kernels[0].block.x, 256u);
  const Traffic& loads = kernels[0].loads;
  EXPECT_EQ(loads.bytes, 3 * 256 * 4);
  EXPECT_EQ(loads.requests, 3 * 8);
  EXPECT_EQ(loads.sectors, 3 * 8 * 4);
  EXPECT_EQ(loads.distinct_sectors, 3 * 8 * 4);
  const Traffic& stores = kernels[0].stores;
  EXPECT_EQ(stores.bytes, 3 * 256 * 4 + 3 * 4);
  EXPECT_EQ(stores.requests, 3 * 8 + 3);
  EXPECT_EQ(stores.sectors, 3 * 8 * 4 + 3);
  // The sums of the three blocks lie in one.
  EXPECT_EQ(stores.distinct_sectors, 3 * 8 * 4 + 1);
}

TEST_F(TrafficTest, CountsASectorForEachLaneThatIsFarFromTheOthers) {
  for (const int stride : {1, 8}) {
    ASSERT_EQ(cuda::CopyStrided(stream_, stride, values_, others_),
              cudaSuccess);
  }
  const std::vector<KernelTraffic> kernels = Finish();
  ASSERT_EQ(kernels.size(), 2u);
  // The asynchronous copies of 16 bytes are 16 sectors a warp, and have what
  // the loads had.
  EXPECT_EQ(kernels[0].loads.requests, 4);
  EXPECT_EQ(kernels[0].loads.sectors, 2 * 4 + 2 * 16);
  EXPECT_EQ(kernels[0].loads.distinct_sectors, 2 * 16);
  EXPECT_EQ(kernels[1].loads.sectors, 2 * 32 + 2 * 16);
  EXPECT_EQ(kernels[1].loads.distinct_sectors, 2 * 32);
  for (const KernelTraffic& kernel : kernels) {
    EXPECT_EQ(kernel.stores.requests, 4);
    EXPECT_EQ(kernel.stores.sectors, 2 * 16 + 2 * 16);
    EXPECT_EQ(kernel.stores.distinct_sectors, 2 * 16);
  }
}

TEST_F(TrafficTest, WatchesNothingBeforeAndBehind) {
  ASSERT_EQ(cuda::SumAndDouble(stream_, 1, values_, others_), cudaSuccess);
  EXPECT_EQ(Finish().size(), 1u);
  ASSERT_EQ(cuda::SumAndDouble(stream_, 1, values_, others_), cudaSuccess);
  EXPECT_EQ(Finish().size(), 0u);
  BeginTraffic();
  EXPECT_EQ(Finish().size(), 0u);
}

TEST_F(TrafficTest, TellsWhatKernelsThatDoNotRunAreLaunchedWith) {
  options().kernels_run = false;
  ASSERT_EQ(cuda::SumAndDouble(stream_, 2, values_, others_), cudaSuccess);
  ASSERT_EQ(cuda::CopyStrided(stream_, 1, values_, others_), cudaSuccess);
  const std::vector<KernelTraffic> kernels = Finish();
  ASSERT_EQ(kernels.size(), 2u);
  EXPECT_EQ(kernels[0].grid.x, 2u);
  EXPECT_EQ(kernels[0].shared_bytes, 8 * sizeof(float));
  EXPECT_EQ(kernels[0].loads.bytes, 0);
  EXPECT_NE(kernels[0].kernel, kernels[1].kernel);
  EXPECT_EQ(Download(values_, 1), std::vector<float>{1});
  options().kernels_run = true;
  ASSERT_EQ(cuda::SumAndDouble(stream_, 2, values_, others_), cudaSuccess);
  EXPECT_EQ(Download(values_, 1), std::vector<float>{2});
}

}  // namespace
}  // namespace engram::emulation

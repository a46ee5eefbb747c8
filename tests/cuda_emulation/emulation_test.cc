// Kernels do on the emulated device what they do on a device, in whatever order
// their blocks and threads run.
#include "tests/cuda_emulation/device/emulation.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/device.h"
#include "tests/cuda_emulation/device_test_case.h"
#include "tests/cuda_emulation/faulty_kernels.h"
#include "tests/cuda_emulation/first_kernel.h"

namespace engram::emulation {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

class EmulationTest : public DeviceTestCase {
 protected:
  static constexpr int kBlocks = kFloats / 256;
};

TEST_F(EmulationTest, AKernelRunsWithBarriersAndShuffles) {
  Upload(values_, 0.5f);
  ASSERT_EQ(cuda::SumAndDouble(stream_, kBlocks, values_, others_),
            cudaSuccess);
  EXPECT_THAT(Download(others_, kBlocks), ElementsAre(128, 128, 128));
  EXPECT_THAT(Download(values_), Each(1.0f));
}

TEST_F(EmulationTest, NoOrderOfThreadsChangesWhatACorrectKernelComputes) {
  std::iota(host_, host_ + kFloats, 0.0f);
  ASSERT_EQ(BeginUpload(values_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  std::vector<float> expected(cuda::kFaultyFloats);
  std::iota(expected.rbegin(), expected.rend(), 0.0f);
  for (const uint64_t seed : {0, 1, 2, 3, 4, 5}) {
    options().seed = seed;
    ASSERT_EQ(cudaMemsetAsync(others_, 0, kFloats * sizeof(float), stream_),
              cudaSuccess);
    ASSERT_EQ(cuda::Reverse(stream_, cuda::Fault::kNone, values_, others_),
              cudaSuccess);
    EXPECT_EQ(Download(others_, cuda::kFaultyFloats), expected);
  }
}

template <class T, class Value>
concept Stores = requires(T* at, Value value) {
  cuda::Store(at, value);
  cuda::StoreStream(at, value);
};
template <class T>
concept CountsAtOnce = requires(T* at, T value) {
  cuda::AtomicAdd(at, value);
  cuda::AtomicMax(at, value);
};

TEST(EmulatedDeviceTest, WhatADeviceHasNoFunctionForDoesNotCompile) {
  EXPECT_TRUE((Stores<float, float>));
  EXPECT_FALSE((Stores<float, int>)) << "it takes what it stores as it is";
  EXPECT_TRUE(CountsAtOnce<uint64_t>);
  EXPECT_FALSE(CountsAtOnce<int64_t>);
}

TEST_F(EmulationTest, AtomicsCountInGlobalAndInSharedMemory) {
  auto* const counts = reinterpret_cast<uint32_t*>(values_);
  ASSERT_EQ(cudaMemsetAsync(counts, 0, 2 * sizeof(uint32_t), stream_),
            cudaSuccess);
  ASSERT_EQ(cuda::Count(stream_, 5, counts), cudaSuccess);
  Download(values_);
  uint32_t got[2];
  std::memcpy(got, host_, sizeof(got));
  EXPECT_THAT(
      got, ElementsAre(5 * cuda::kFaultyThreads, 5 * cuda::kFaultyThreads - 1));
}

TEST_F(EmulationTest, TurnedRowsAreDealtOutByColumns) {
  ASSERT_EQ(cuda::Turn(stream_, reinterpret_cast<uint32_t*>(values_)),
            cudaSuccess);
  Download(values_);
  uint16_t got[32][4][2];
  std::memcpy(got, host_, sizeof(got));
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < 4; ++m) {
      for (int i = 0; i < 2; ++i) {
        const int row = lane % 4 * 2 + i, column = lane / 4;
        EXPECT_EQ(got[lane][m][i], 64 * m + 8 * row + column);
      }
    }
  }
}

TEST_F(EmulationTest, AGraphDoesAgainWhatWasCaptured) {
  Upload(values_, 1);
  ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
            cudaSuccess);
  ASSERT_EQ(cuda::SumAndDouble(stream_, kBlocks, values_, others_),
            cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  size_t nodes = 0;
  ASSERT_EQ(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
  EXPECT_EQ(nodes, 1u);
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_THAT(Download(values_), Each(1.0f)) << "captured, not run";
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(cudaGraphLaunch(exec, stream_), cudaSuccess);
  }
  EXPECT_THAT(Download(values_), Each(8.0f));
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_F(EmulationTest, KernelsThatBeginEarlyComputeTheSame) {
  for (const int64_t threads : {0, 256, 512, 1 << 20}) {
    options().early_threads = threads;
    Upload(values_, 1);
    for (int i = 0; i < 4; ++i) {
      ASSERT_EQ(cuda::SumAndDouble(stream_, kBlocks, values_, others_),
                cudaSuccess);
    }
    EXPECT_THAT(Download(others_, kBlocks), ElementsAre(2048, 2048, 2048))
        << threads;
    EXPECT_THAT(Download(values_), Each(16.0f)) << threads;
  }
}

TEST_F(EmulationTest, EverythingThatRunsIsCounted) {
  const Counts before = counts();
  Upload(values_, 1);
  ASSERT_EQ(cuda::SumAndDouble(stream_, kBlocks, values_, others_),
            cudaSuccess);
  EXPECT_EQ(counts().kernels, before.kernels) << "not yet";
  Download(values_);
  EXPECT_EQ(counts().kernels, before.kernels + 1);
  EXPECT_EQ(counts().copies, before.copies + 2);
  EXPECT_EQ(counts().pageable_copies, before.pageable_copies);
}

}  // namespace
}  // namespace engram::emulation

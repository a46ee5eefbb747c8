// The runtime's functions answer as the CUDA runtime's do.
#include <cuda_runtime.h>

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda_emulation/device_test_case.h"
#include "tests/cuda_emulation/faulty_kernels.h"
#include "tests/cuda_emulation/first_kernel.h"

namespace engram::emulation {
namespace {

using ::testing::Each;

class RuntimeTest : public DeviceTestCase {
 protected:
  cudaError_t Double() {
    return cuda::SumAndDouble(stream_, kFloats / 256, values_, others_);
  }
};

TEST_F(RuntimeTest, ALaunchThatNoDeviceCanDoIsRefused) {
  constexpr size_t kOfAll = 48 * 1024;
  constexpr size_t kMost = 227 * 1024;
  EXPECT_EQ(cuda::DoNothing(stream_, 1024, kOfAll), cudaSuccess);
  EXPECT_EQ(cuda::DoNothing(stream_, 1025, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cuda::DoNothing(stream_, 0, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cuda::DoNothing(stream_, 32, kOfAll + 1), cudaErrorInvalidValue)
      << "nobody has allowed that";
  EXPECT_EQ(cuda::AllowDoNothing(kMost + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cuda::AllowDoNothing(kMost), cudaSuccess);
  EXPECT_EQ(cuda::DoNothing(stream_, 32, kMost), cudaSuccess);
  EXPECT_EQ(cuda::DoNothing(stream_, 32, kMost + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess) << "nothing stays";
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "told once";
}

TEST_F(RuntimeTest, APlantedErrorStays) {
  Upload(values_, 1);
  PlantError(2, cudaErrorIllegalAddress);
  EXPECT_EQ(Double(), cudaSuccess);
  EXPECT_EQ(Double(), cudaSuccess) << "the launch itself knows nothing of it";
  EXPECT_EQ(Double(), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorIllegalAddress);
  EXPECT_EQ(Double(), cudaErrorIllegalAddress);
  EXPECT_EQ(BeginDownload(values_), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress) << "again and again";
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, 16), cudaErrorIllegalAddress);
  ClearErrors();
  EXPECT_THAT(Download(values_), Each(2.0f)) << "the first has run, no other";
}

TEST_F(RuntimeTest, ACopyCanFailAsWell) {
  PlantError(1, cudaErrorECCUncorrectable);
  EXPECT_EQ(BeginUpload(values_), cudaSuccess);
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming),
            cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event, stream_), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_EQ(cudaEventSynchronize(event), cudaErrorECCUncorrectable);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorECCUncorrectable);
  ClearErrors();
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
}

TEST_F(RuntimeTest, WorkRunsWhenItIsWaitedForAndNoFurther) {
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming),
            cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess) << "never recorded";
  Upload(values_, 1);
  const int64_t before = counts().kernels;
  ASSERT_EQ(Double(), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event, stream_), cudaSuccess);
  ASSERT_EQ(Double(), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_EQ(counts().kernels, before);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess) << "asked again";
  EXPECT_EQ(counts().kernels, before + 1);
  EXPECT_EQ(cudaStreamQuery(stream_), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(counts().kernels, before + 2);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
}

TEST_F(RuntimeTest, AStreamWaitsForAnEventOfAnother) {
  Upload(values_, 1);
  cudaStream_t copies = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking),
            cudaSuccess);
  cudaEvent_t doubled = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&doubled, cudaEventDisableTiming),
            cudaSuccess);
  ASSERT_EQ(Double(), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(doubled, stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(copies, doubled), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(host_, values_, kFloats * sizeof(float),
                            cudaMemcpyDeviceToHost, copies),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(copies), cudaSuccess);
  EXPECT_EQ(host_[0], 2);
  EXPECT_EQ(cudaEventDestroy(doubled), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(copies), cudaSuccess);
}

TEST_F(RuntimeTest, WithoutAnEventStreamsAreInNoOrder) {
  Upload(values_, 1);
  cudaStream_t copies = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking),
            cudaSuccess);
  ASSERT_EQ(Double(), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(host_, values_, kFloats * sizeof(float),
                            cudaMemcpyDeviceToHost, copies),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(copies), cudaSuccess);
  EXPECT_EQ(host_[0], 1) << "the kernel has not run";
  EXPECT_EQ(cudaStreamDestroy(copies), cudaSuccess);
}

TEST_F(RuntimeTest, WhatTheHostWaitsForIsCounted) {
  Upload(values_, 1);
  cudaEvent_t doubled = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&doubled, cudaEventDisableTiming),
            cudaSuccess);
  const int64_t before = counts().waits;
  ASSERT_EQ(Double(), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(doubled, stream_), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(doubled), cudaErrorNotReady);
  EXPECT_EQ(counts().waits, before) << "it only asked";
  ASSERT_EQ(cudaEventSynchronize(doubled), cudaSuccess);
  EXPECT_EQ(counts().waits, before + 1);
  ASSERT_EQ(cudaEventSynchronize(doubled), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(counts().waits, before + 1) << "that was done";
  ASSERT_EQ(Double(), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(counts().waits, before + 2);
  EXPECT_EQ(cudaEventDestroy(doubled), cudaSuccess);
}

TEST_F(RuntimeTest, ACaptureIsSpoiledByWhatWaitsOrAllocates) {
  const std::vector<cudaError_t (*)(cudaStream_t)> spoilers = {
      [](cudaStream_t stream) { return cudaStreamSynchronize(stream); },
      [](cudaStream_t) { return cudaDeviceSynchronize(); },
      [](cudaStream_t) {
        void* memory = nullptr;
        return cudaMalloc(&memory, 16);
      },
  };
  for (const auto spoil : spoilers) {
    ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
              cudaSuccess);
    ASSERT_EQ(Double(), cudaSuccess);
    EXPECT_EQ(spoil(stream_), cudaErrorStreamCaptureUnsupported);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph),
              cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
  }
}

TEST_F(RuntimeTest, ADeviceHasNoMoreMemoryThanItHas) {
  size_t free = 0;
  size_t total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  EXPECT_EQ(total, kDeviceBytes);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, free + 256), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&memory, free / 2), cudaSuccess);
  size_t left = 0;
  ASSERT_EQ(cudaMemGetInfo(&left, &total), cudaSuccess);
  EXPECT_LE(left, free - free / 2);
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
  EXPECT_EQ(cudaFree(memory), cudaErrorInvalidValue) << "twice";
  ASSERT_EQ(cudaMemGetInfo(&left, &total), cudaSuccess);
  EXPECT_EQ(left, free);
}

TEST_F(RuntimeTest, ADestroyedStreamIsNoStream) {
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  ASSERT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
}

}  // namespace
}  // namespace engram::emulation

// Several devices: each has its own memory, streams, events, graphs and
// allowances, and a thread works with the one that it has made current.
#include <cuda_runtime.h>

#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda_emulation/device_test_case.h"
#include "tests/cuda_emulation/faulty_kernels.h"
#include "tests/cuda_emulation/first_kernel.h"

namespace engram::emulation {
namespace {

using ::testing::Each;

// What the test case has is of the first device; the second is current.
class DevicesTest : public DeviceTestCase {
 protected:
  void SetUp() override {
    DeviceTestCase::SetUp();
    options().devices = 2;
    Upload(values_, 1);
    ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
    for (float** array : {&far_, &far_sums_}) {
      ASSERT_EQ(cudaMalloc(array, kFloats * sizeof(float)), cudaSuccess);
    }
    ASSERT_EQ(cudaStreamCreateWithFlags(&far_stream_, cudaStreamNonBlocking),
              cudaSuccess);
  }
  void TearDown() override {
    ClearErrors();
    EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
    for (float* array : {far_, far_sums_}) {
      EXPECT_EQ(cudaFree(array), cudaSuccess) << "whichever device is current";
    }
    EXPECT_EQ(cudaStreamDestroy(far_stream_), cudaSuccess);
    DeviceTestCase::TearDown();
  }

  cudaError_t Double(cudaStream_t stream, float* values) {
    return cuda::SumAndDouble(stream, kFloats / 256, values,
                              values == far_ ? far_sums_ : others_);
  }
  cudaError_t CopyToHost(const float* device, cudaStream_t stream) {
    return cudaMemcpyAsync(host_, device, kFloats * sizeof(float),
                           cudaMemcpyDeviceToHost, stream);
  }
  // A graph of one kernel of the device that is current.
  cudaGraphExec_t Record(cudaStream_t stream, float* values) {
    EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
              cudaSuccess);
    EXPECT_EQ(Double(stream, values), cudaSuccess);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    cudaGraphExec_t executable = nullptr;
    EXPECT_EQ(cudaGraphInstantiate(&executable, graph), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    return executable;
  }

  // Of the second device.
  float* far_ = nullptr;
  float* far_sums_ = nullptr;
  cudaStream_t far_stream_ = nullptr;
};

using DevicesDeathTest = DevicesTest;

TEST_F(DevicesTest, ThereAreAsManyAsAreAskedFor) {
  int count = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_EQ(count, 2);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaSetDevice(-1), cudaErrorInvalidDevice);
  int major = 0;
  EXPECT_EQ(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 1),
      cudaSuccess);
  EXPECT_EQ(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 2),
      cudaErrorInvalidDevice);
  options().devices = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  options().devices = 2;
}

TEST_F(DevicesTest, EachThreadHasItsOwnCurrentOne) {
  int device = -1;
  std::thread([&device] { cudaGetDevice(&device); }).join();
  EXPECT_EQ(device, 0);
  EXPECT_EQ(cudaGetDevice(&device), cudaSuccess);
  EXPECT_EQ(device, 1);
}

TEST_F(DevicesTest, EachHasItsOwnMemory) {
  size_t free = 0;
  size_t total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  void* most = nullptr;
  EXPECT_EQ(cudaMalloc(&most, free), cudaSuccess);
  cudaPointerAttributes attributes;
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, most), cudaSuccess);
  EXPECT_EQ(attributes.device, 1);
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, values_), cudaSuccess);
  EXPECT_EQ(attributes.device, 0);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  void* more = nullptr;
  EXPECT_EQ(cudaMalloc(&more, free / 2), cudaSuccess) << "the other one has it";
  EXPECT_EQ(cudaFree(more), cudaSuccess);
  EXPECT_EQ(cudaFree(most), cudaSuccess);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  size_t left = 0;
  ASSERT_EQ(cudaMemGetInfo(&left, &total), cudaSuccess);
  EXPECT_EQ(left, free);
}

TEST_F(DevicesTest, AKernelIsRefusedByAnothersStream) {
  EXPECT_EQ(Double(stream_, values_), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  EXPECT_EQ(Double(stream_, values_), cudaSuccess);
  EXPECT_EQ(Double(far_stream_, far_), cudaErrorInvalidResourceHandle);
  EXPECT_THAT(Download(values_), Each(2.0f));
}

TEST_F(DevicesDeathTest, AKernelThatTouchesMemoryOfAnother) {
  EXPECT_DEATH(
      {
        Double(far_stream_, values_);
        cudaStreamSynchronize(far_stream_);
      },
      "which is memory of another device, 0");
}

TEST_F(DevicesTest, CopiesAndFillsAreOfTheStreamsDeviceWhateverIsCurrent) {
  EXPECT_EQ(CopyToHost(values_, far_stream_), cudaErrorInvalidValue);
  EXPECT_EQ(CopyToHost(far_, stream_), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(values_, 0, 4, far_stream_), cudaErrorInvalidValue);
  EXPECT_EQ(
      cudaMemcpyAsync(far_, values_, 4, cudaMemcpyDeviceToDevice, far_stream_),
      cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host_, values_, 4, cudaMemcpyDeviceToHost),
            cudaErrorInvalidValue)
      << "the current one's";
  EXPECT_EQ(CopyToHost(values_, stream_), cudaSuccess);
  EXPECT_EQ(cudaMemsetAsync(values_, 0, 4, stream_), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_THAT(std::vector<float>(host_, host_ + kFloats), Each(1.0f));
}

TEST_F(DevicesTest, AnEventIsOfTheDeviceThatWasCurrentWhenItWasMade) {
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming),
            cudaSuccess);
  EXPECT_EQ(cudaEventRecord(event, stream_), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaMemsetAsync(far_, 0, kFloats * sizeof(float), far_stream_),
            cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event, far_stream_), cudaSuccess);
  // All may wait for it.
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  EXPECT_EQ(cudaStreamWaitEvent(stream_, event), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(far_stream_), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(event), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
}

TEST_F(DevicesTest, AGraphIsOfTheDeviceThatItWasRecordedOn) {
  const cudaGraphExec_t graph = Record(far_stream_, far_);
  EXPECT_EQ(cudaGraphLaunch(graph, stream_), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaMemsetAsync(far_, 0, kFloats * sizeof(float), far_stream_),
            cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(graph, far_stream_), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(far_stream_), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(graph), cudaSuccess);
}

TEST_F(DevicesTest, SharedMemoryIsAllowedForOneDevice) {
  constexpr size_t kOfAll = 48 * 1024;
  ASSERT_EQ(cuda::AllowDoNothing(2 * kOfAll), cudaSuccess);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  ASSERT_EQ(cuda::AllowDoNothing(kOfAll), cudaSuccess);
  EXPECT_EQ(cuda::DoNothing(stream_, 32, 2 * kOfAll), cudaErrorInvalidValue);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  EXPECT_EQ(cuda::DoNothing(far_stream_, 32, 2 * kOfAll), cudaSuccess);
}

TEST_F(DevicesTest, WaitingForADeviceRunsNoOther) {
  EXPECT_EQ(CopyToHost(values_, stream_), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(stream_), cudaErrorNotReady);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(stream_), cudaSuccess);
}

TEST_F(DevicesTest, ACaptureIsSpoiledByItsOwnThreadOrItsOwnStream) {
  ASSERT_EQ(
      cudaStreamBeginCapture(far_stream_, cudaStreamCaptureModeThreadLocal),
      cudaSuccess);
  std::thread([this] {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, 16), cudaSuccess);
    EXPECT_EQ(cudaFree(memory), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  }).join();
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(far_stream_, &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);

  ASSERT_EQ(
      cudaStreamBeginCapture(far_stream_, cudaStreamCaptureModeThreadLocal),
      cudaSuccess);
  std::thread([this] {
    EXPECT_EQ(cudaStreamSynchronize(far_stream_),
              cudaErrorStreamCaptureUnsupported);
  }).join();
  EXPECT_EQ(cudaStreamEndCapture(far_stream_, &graph),
            cudaErrorStreamCaptureInvalidated);
}

TEST_F(DevicesTest, AfterAnErrorThatStaysTheProcessHasNone) {
  PlantError(1, cudaErrorECCUncorrectable);
  ASSERT_EQ(cudaMemsetAsync(far_, 0, 4, far_stream_), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(far_stream_), cudaErrorECCUncorrectable);
  ASSERT_EQ(cudaSetDevice(0), cudaErrorECCUncorrectable);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorECCUncorrectable);
}

}  // namespace
}  // namespace engram::emulation

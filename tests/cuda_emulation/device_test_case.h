// What tests of the emulated device begin with: a stream, and arrays of floats
// in pinned memory and on the device.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "tests/cuda_emulation/device/emulation.h"

namespace engram::emulation {

class DeviceTestCase : public ::testing::Test {
 protected:
  static constexpr int kFloats = 768;

  void SetUp() override {
    before_ = options();
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
              cudaSuccess);
    for (float** array : {&values_, &others_}) {
      ASSERT_EQ(cudaMalloc(array, kFloats * sizeof(float)), cudaSuccess);
    }
    ASSERT_EQ(cudaMallocHost(&host_, kFloats * sizeof(float)), cudaSuccess);
  }
  void TearDown() override {
    ClearErrors();
    EXPECT_EQ(cudaFreeHost(host_), cudaSuccess);
    for (float* array : {values_, others_}) {
      EXPECT_EQ(cudaFree(array), cudaSuccess);
    }
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    options() = before_;
  }

  cudaError_t BeginUpload(float* device) {
    return cudaMemcpyAsync(device, host_, kFloats * sizeof(float),
                           cudaMemcpyHostToDevice, stream_);
  }
  cudaError_t BeginDownload(const float* device) {
    return cudaMemcpyAsync(host_, device, kFloats * sizeof(float),
                           cudaMemcpyDeviceToHost, stream_);
  }
  void Upload(float* device, float value) {
    std::fill_n(host_, kFloats, value);
    ASSERT_EQ(BeginUpload(device), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  }
  // The first `count` of them.
  std::vector<float> Download(const float* device, int count = kFloats) {
    EXPECT_EQ(BeginDownload(device), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return {host_, host_ + count};
  }

  Options before_;
  cudaStream_t stream_ = nullptr;
  float* values_ = nullptr;  // on the device
  float* others_ = nullptr;
  float* host_ = nullptr;  // pinned
};

}  // namespace engram::emulation

// DeviceArray: values in a device's memory, for programs that look at kernels
// without a back end.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/status.h"

namespace engram {

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(values, static_cast<int64_t>(values.size())) {}
  // `count` of them, which are `values` again and again.
  DeviceArray(const std::vector<T>& values, int64_t count) : count_(count) {
    ENGRAM_CHECK(cudaMalloc(&data_, count * sizeof(T)) == cudaSuccess);
    const auto piece = static_cast<int64_t>(values.size());
    for (int64_t at = 0; at < count; at += piece) {
      ENGRAM_CHECK(cudaMemcpy(data_ + at, values.data(),
                              std::min(piece, count - at) * sizeof(T),
                              cudaMemcpyHostToDevice) == cudaSuccess);
    }
  }
  ~DeviceArray() { (void)cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }

  // REQUIRES: what writes them is done.
  std::vector<T> ToHost() const {
    std::vector<T> values(count_);
    ENGRAM_CHECK(cudaMemcpy(values.data(), data_, count_ * sizeof(T),
                            cudaMemcpyDeviceToHost) == cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  const int64_t count_;
};

}  // namespace engram

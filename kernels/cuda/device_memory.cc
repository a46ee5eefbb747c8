#include "kernels/cuda/device_memory.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/current_device.h"
#include "kernels/cuda/device_status.h"

namespace engram::cuda {
namespace {

// `free_memory` is cudaFree or cudaFreeHost; its answer is that of earlier work
// and told where that is waited for. Any thread may end it, with the device
// current on which it was made: no other one's context is made for that.
class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(void* data, size_t bytes, cudaError_t (*free_memory)(void*))
      : data_(data), bytes_(bytes), free_memory_(free_memory) {
    (void)cudaGetDevice(&device_);
  }
  ~CudaBuffer() override {
    (void)MakeCurrent(device_);
    (void)free_memory_(data_);
  }

  void* data() override { return data_; }
  const void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  void* const data_;
  const size_t bytes_;
  cudaError_t (*const free_memory_)(void*);
  int device_ = 0;
};

absl::Status Refused(cudaError_t error, size_t bytes, const char* where) {
  // A refusal is no failure of the device: later calls shall not find it.
  (void)cudaGetLastError();
  size_t free_bytes = 0, total_bytes = 0;
  (void)cudaMemGetInfo(&free_bytes, &total_bytes);
  const absl::Status status =
      DeviceStatus(error, absl::StrCat("cannot allocate ", bytes, " bytes of ",
                                       where, "; the device has ", free_bytes,
                                       " free of ", total_bytes));
  return error == cudaErrorInvalidValue
             ? absl::ResourceExhaustedError(status.message())
             : status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Buffer>> AllocateDeviceMemory(size_t bytes) {
  void* data = nullptr;
  // Buffers that differ have addresses that differ, also those of 0 bytes.
  const cudaError_t error = cudaMalloc(&data, std::max<size_t>(bytes, 1));
  if (error != cudaSuccess) return Refused(error, bytes, "device memory");
  return std::make_unique<CudaBuffer>(data, bytes, cudaFree);
}

absl::StatusOr<std::unique_ptr<Buffer>> AllocatePinnedMemory(size_t bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaMallocHost(&data, std::max<size_t>(bytes, 1));
  if (error != cudaSuccess) return Refused(error, bytes, "pinned memory");
  return std::make_unique<CudaBuffer>(data, bytes, cudaFreeHost);
}

}  // namespace engram::cuda

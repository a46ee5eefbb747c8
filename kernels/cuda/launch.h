// Launch: how a kernel is put into a stream, so that all of them overlap in the
// same way with what comes before.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace engram::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // DynamicShared, at most 227 KB
  // The kernel's blocks may begin before the kernels in front are finished,
  // and wait in GridWait. Devices before compute capability 9.0 don't.
  bool overlaps = true;
};

// Allows blocks of `kernel` more shared memory than the 48 KB that all have,
// on the current device; what was allowed before is remembered.
cudaError_t AllowSharedBytes(const void* kernel, size_t bytes);

// Whether blocks that this thread launches from now on may begin early, which
// they may at first. Short kernels, as of decode, gain by it. Kernels of a
// prompt lose: their blocks, if few, are dealt to the few multiprocessors that
// the kernel in front has left, and stay there.
void AllowOverlap(bool allowed);

// Whether blocks begin early on the current device, and may.
cudaError_t CanOverlap(bool* can);

// Puts `kernel` into `stream`; its arguments are copied. An error of the launch
// itself is returned, one of the kernel by what waits for it.
template <class... Parameters, class... Arguments>
cudaError_t Launch(const LaunchShape& shape, cudaStream_t stream,
                   void (*kernel)(Parameters...), Arguments... arguments) {
  constexpr size_t kSharedBytesOfAll = 48 * 1024;
  if (shape.shared_bytes > kSharedBytesOfAll) {
    const cudaError_t error = AllowSharedBytes(
        reinterpret_cast<const void*>(kernel), shape.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  bool overlaps = false;
  if (shape.overlaps) {
    const cudaError_t error = CanOverlap(&overlaps);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlaps ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel,
                            static_cast<Parameters>(arguments)...);
}

}  // namespace engram::cuda

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "tests/device_facts/empty_kernel.h"

namespace engram {
namespace {

__global__ void Empty() {
  cuda::GridWait();
  cuda::GridTrigger();
}

}  // namespace

cudaError_t LaunchEmptyKernel(cudaStream_t stream, bool overlaps) {
  cuda::LaunchShape shape;
  shape.grid = dim3(132);
  shape.block = dim3(128);
  shape.overlaps = overlaps;
  return cuda::Launch(shape, stream, Empty);
}

}  // namespace engram

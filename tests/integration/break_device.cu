#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "tests/integration/break_device.h"

namespace engram {
namespace {

__global__ void WriteToNobodysMemory(float* nobodys) {
  cuda::GridWait();
  cuda::GridTrigger();
  cuda::Store(nobodys, 1.0f);
}

}  // namespace

void BreakDevice() {
  // Whether it can be launched is seen by what waits for the device.
  (void)cuda::Launch({}, cudaStreamPerThread, WriteToNobodysMemory,
                     reinterpret_cast<float*>(256));
}

}  // namespace engram

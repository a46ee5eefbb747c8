#include "kernels/cuda/current_device.h"

namespace engram::cuda {
namespace {

// The runtime makes a context on a device that becomes current, and asks for
// it each time: to remember is cheaper. -1: whatever the runtime begins with.
thread_local int current = -1;

}  // namespace

cudaError_t MakeCurrent(int device) {
  if (current == device) return cudaSuccess;
  const cudaError_t error = cudaSetDevice(device);
  if (error == cudaSuccess) current = device;
  return error;
}

}  // namespace engram::cuda

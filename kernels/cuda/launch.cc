#include "kernels/cuda/launch.h"

#include <map>
#include <mutex>
#include <utility>

namespace engram::cuda {
namespace {

// What has been found out or set once; each device has its own.
struct Known {
  std::mutex mutex;
  std::map<std::pair<const void*, int>, size_t> shared_bytes;
  std::map<int, bool> can_overlap;
};

Known& Knowledge() {
  static Known* known = new Known;
  return *known;
}

thread_local bool may_overlap = true;

}  // namespace

void AllowOverlap(bool allowed) { may_overlap = allowed; }

cudaError_t AllowSharedBytes(const void* kernel, size_t bytes) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  Known& known = Knowledge();
  std::lock_guard<std::mutex> lock(known.mutex);
  size_t& allowed = known.shared_bytes[{kernel, device}];
  if (bytes <= allowed) return cudaSuccess;
  error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(bytes));
  if (error == cudaSuccess) allowed = bytes;
  return error;
}

cudaError_t CanOverlap(bool* can) {
  if (!may_overlap) {
    *can = false;
    return cudaSuccess;
  }
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  Known& known = Knowledge();
  std::lock_guard<std::mutex> lock(known.mutex);
  const auto found = known.can_overlap.find(device);
  if (found != known.can_overlap.end()) {
    *can = found->second;
    return cudaSuccess;
  }
  int major = 0;
  error =
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
  *can = known.can_overlap[device] = major >= 9;
  return cudaSuccess;
}

}  // namespace engram::cuda

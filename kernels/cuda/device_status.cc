#include "kernels/cuda/device_status.h"

#include <atomic>
#include <string>

#include "absl/strings/str_cat.h"

namespace engram::cuda {
namespace {

struct Reason {
  int code;  // cudaError_t
  const char* sentence;
};

// What cudaGetDeviceCount answers where there is nothing to compute on.
constexpr Reason kReasons[] = {
    {35,
     "there is no NVIDIA driver here, or it is older than this build's CUDA; "
     "install a driver for CUDA 13.0 or newer (580), and in a container make "
     "it visible (--gpus all)"},
    {34,
     "the library path has CUDA's stub of libcuda, which is for linking only; "
     "take the folder `stubs` out of LD_LIBRARY_PATH"},
    {100,
     "the driver sees no device; look at nvidia-smi and CUDA_VISIBLE_DEVICES"},
    {803,
     "the driver's library and its kernel module have different versions; "
     "restart the machine, or reload the module, after an update"},
    {804,
     "forward compatibility is not supported by this device; take the folder "
     "`compat` out of LD_LIBRARY_PATH or install a newer driver"},
    {999,
     "the driver failed for a reason that it doesn't tell; look at dmesg and "
     "nvidia-smi, and whether this process may open /dev/nvidia*"},
};

std::atomic<bool> device_is_lost = false;

}  // namespace

bool DeviceIsLost() { return device_is_lost; }
void SetDeviceIsLost(bool lost) { device_is_lost = lost; }

absl::Status DeviceStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message =
      absl::StrCat("CUDA: ", what, ": ", cudaGetErrorName(error), " (",
                   static_cast<int>(error), "), ", cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation
             ? absl::ResourceExhaustedError(message)
             : absl::InternalError(message);
}

absl::Status NoDevice(cudaError_t error) {
  for (const Reason& reason : kReasons) {
    if (reason.code != static_cast<int>(error)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("CUDA: ", reason.sentence, " (code ",
                     static_cast<int>(error), "); or use --backend=cpu"));
  }
  return absl::FailedPreconditionError(
      absl::StrCat(DeviceStatus(error, "looking for devices").message(),
                   "; look at nvidia-smi, or use --backend=cpu"));
}

}  // namespace engram::cuda

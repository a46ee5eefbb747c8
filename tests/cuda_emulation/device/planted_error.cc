#include "tests/cuda_emulation/device/planted_error.h"

#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/queue.h"

namespace engram::emulation {
namespace {

int64_t left = 0;  // 0: none is planted
cudaError_t planted = cudaSuccess;

// That of the environment, when the device is first used.
void PlantWhatOptionsSay() {
  static const bool done = [] {
    if (left == 0 && options().fails_at > 0) {
      left = options().fails_at;
      planted = cudaErrorIllegalAddress;
    }
    return true;
  }();
  (void)done;
}

}  // namespace

bool FailsNow() {
  PlantWhatOptionsSay();
  if (left == 0 || --left > 0) return false;
  SetStickyError(planted);
  return true;
}

void PlantError(int64_t n, cudaError_t error) {
  Lock lock(RuntimeMutex());
  left = n;
  planted = error;
}

void ClearErrors() {
  {
    Lock lock(RuntimeMutex());
    left = 0;
    SetStickyError(cudaSuccess);
  }
  cudaGetLastError();
}

}  // namespace engram::emulation

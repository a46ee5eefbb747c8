#include "tests/cuda_emulation/device/planted_error.h"

#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/queue.h"

namespace engram::emulation {
namespace {

int64_t left = 0;  // 0: none is planted
cudaError_t planted = cudaSuccess;

}  // namespace

bool FailsNow() {
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

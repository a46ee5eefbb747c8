// How the runtime's answers leave the back end: as absl::Status, and why there
// is no device as sentences for whoever started the program.
#pragma once

#include <cuda_runtime.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace engram::cuda {

// INTERNAL with what was done and the runtime's name and text for `error`;
// RESOURCE_EXHAUSTED where memory ran out.
absl::Status DeviceStatus(cudaError_t error, absl::string_view what);

// FAILED_PRECONDITION with one sentence on why the runtime finds no device, and
// one on what to do.
absl::Status NoDevice(cudaError_t error);

// Whether a device that this process uses has failed. It is of no use any more
// and the process has to end: what is destroyed from then on leaves the runtime
// alone, which would answer with the same error at best, and gives nothing
// back. Ends when a back end is made, on a device that answers. Thread-safe.
bool DeviceIsLost();
void SetDeviceIsLost(bool lost);

// The first failure of a back end, which is its end. If it is the runtime's,
// and not that memory is short, the process can compute nothing more on the
// device. Engine thread only.
class DeviceFailure {
 public:
  // Keeps `error` if it is one and the first.
  void Note(cudaError_t error, absl::string_view what) {
    if (error != cudaSuccess) Keep(DeviceStatus(error, what));
  }
  void Keep(const absl::Status& status) {
    if (!status_.ok()) return;
    status_ = status;
    if (absl::IsInternal(status)) SetDeviceIsLost(true);
  }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

}  // namespace engram::cuda

// The CUDA back end: one device, its memory, a stream of operations and a
// stream of copies; kernels in the files beside this one. Its orders of
// summation are in kernels/cuda/README.md.
//
// An emulated device (tests/cuda_emulation) runs the same files.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace engram {

// How many devices the process sees. FAILED_PRECONDITION with the reason and
// what to do if there is none.
absl::StatusOr<int> CountCudaDevices();

// Works on its own device whichever thread calls it. FAILED_PRECONDITION with
// the reason and what to do if there is no device, INVALID_ARGUMENT if there
// are others but not this one, RESOURCE_EXHAUSTED if
// it has no room for the tables of steps.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(
    const DeviceOptions& options = {});

}  // namespace engram

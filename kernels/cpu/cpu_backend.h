// The CPU back end: host memory, a thread pool, and Highway kernels in the
// files beside this one.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace engram {

// `threads` counts the calling thread; 0 means one per core. INVALID_ARGUMENT
// if it is negative or absurdly large.
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(int threads);

}  // namespace engram

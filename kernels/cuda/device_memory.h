// Memory of a device, and memory of the host that a device copies from and to
// at full speed.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace engram::cuda {

// Not zeroed. 256-byte aligned. RESOURCE_EXHAUSTED with the bytes asked for.
absl::StatusOr<std::unique_ptr<Buffer>> AllocateDeviceMemory(size_t bytes);

// Page-locked. RESOURCE_EXHAUSTED likewise.
absl::StatusOr<std::unique_ptr<Buffer>> AllocatePinnedMemory(size_t bytes);

}  // namespace engram::cuda

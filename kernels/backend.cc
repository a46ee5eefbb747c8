#include "kernels/backend.h"

#include "kernels/cpu/cpu_backend.h"

namespace engram {

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(
    const BackendOptions& options) {
  switch (options.kind) {
    case BackendKind::kAuto:
    case BackendKind::kCpu:
      return MakeCpuBackend(options.threads);
    case BackendKind::kCuda:
      return absl::FailedPreconditionError(
          "this build has no CUDA back end; use --backend=cpu");
  }
  return absl::InvalidArgumentError("unknown kind of back end");
}

}  // namespace engram

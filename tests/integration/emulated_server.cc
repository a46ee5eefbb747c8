// engram-server with the CUDA back end on an emulated device, in builds whose
// own server has none: the program itself, but for its MakeBackend().
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/support/wrapped_make_backend.h"

namespace engram {

absl::StatusOr<std::unique_ptr<Backend>> WrappedMakeBackend(
    const BackendOptions& options) {
  if (options.kind == BackendKind::kCpu) return RealMakeBackend(options);
  auto cuda = MakeCudaBackend(options.device);
  if (options.kind == BackendKind::kCuda ||
      !absl::IsFailedPrecondition(cuda.status())) {
    return cuda;
  }
  if (options.on_no_device) options.on_no_device(cuda.status());
  BackendOptions cpu = options;
  cpu.kind = BackendKind::kCpu;
  return RealMakeBackend(cpu);
}

}  // namespace engram

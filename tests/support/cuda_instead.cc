// Programs that link this run their models on the CUDA back end, whatever they
// ask for. Without a device's compiler the device is emulated.
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/support/wrapped_make_backend.h"

namespace engram {

absl::StatusOr<std::unique_ptr<Backend>> WrappedMakeBackend(
    const BackendOptions& options) {
  return MakeCudaBackend(options.device);
}

}  // namespace engram

// Programs that link this run their models on the CUDA back end, whatever they
// ask for: the linker (--wrap) puts it in the place of MakeBackend(). Without a
// device's compiler the device is emulated.
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace engram {

// The mangled name of MakeBackend(const BackendOptions&), as --wrap has it.
absl::StatusOr<std::unique_ptr<Backend>>
MakeCudaBackendInstead(const BackendOptions& options) asm(
    "__wrap__ZN6engram11MakeBackendERKNS_"
    "14BackendOptionsE");

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackendInstead(
    const BackendOptions&) {
  return MakeCudaBackend();
}

}  // namespace engram

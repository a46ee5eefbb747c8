#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>

#include <cstddef>
#include <type_traits>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace engram::cuda {
namespace {

absl::StatusOr<CublasLt> FunctionsOf(
    absl::string_view library, absl::FunctionRef<void*(const char*)> find) {
  CublasLt lt;
  const char* missing = nullptr;
  const auto take = [&](const char* name, auto* function) {
    void* const found = find(name);
    if (found == nullptr && missing == nullptr) missing = name;
    *function =
        reinterpret_cast<std::remove_pointer_t<decltype(function)>>(found);
  };
  take("cublasLtGetVersion", &lt.version);
  take("cublasLtCreate", &lt.create);
  take("cublasLtDestroy", &lt.destroy);
  take("cublasLtMatmulDescCreate", &lt.create_description);
  take("cublasLtMatmulDescDestroy", &lt.destroy_description);
  take("cublasLtMatmulDescSetAttribute", &lt.set_description);
  take("cublasLtMatrixLayoutCreate", &lt.create_layout);
  take("cublasLtMatrixLayoutDestroy", &lt.destroy_layout);
  take("cublasLtMatmulPreferenceCreate", &lt.create_preference);
  take("cublasLtMatmulPreferenceDestroy", &lt.destroy_preference);
  take("cublasLtMatmulPreferenceSetAttribute", &lt.set_preference);
  take("cublasLtMatmulAlgoGetHeuristic", &lt.find_algorithms);
  take("cublasLtMatmulAlgoConfigGetAttribute", &lt.get_configuration);
  take("cublasLtMatmul", &lt.multiply);
  if (missing == nullptr) return lt;
  return absl::NotFoundError(absl::StrCat(library, " has no ", missing));
}

}  // namespace

std::string CublasLt::Name() const {
  const size_t number = version();
  return absl::StrCat("cuBLASLt ", number / 10000, ".", number / 100 % 100, ".",
                      number % 100);
}

absl::StatusOr<CublasLt> OpenCublasLt(const char* file) {
  void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const reason = dlerror();
    return absl::NotFoundError(reason != nullptr ? reason : file);
  }
  return FunctionsOf(
      file, [library](const char* name) { return dlsym(library, name); });
}

absl::StatusOr<CublasLt> FindCublasLt() {
#if defined(ENGRAM_CUDA_EMULATION)
  return FunctionsOf("the emulated device", &emulation::CublasLtFunction);
#else
  return OpenCublasLt("libcublasLt.so.13");
#endif
}

}  // namespace engram::cuda

#include "tests/device_facts/matrix_rate.h"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/device_facts/milliseconds.h"

namespace engram {
namespace {

constexpr size_t kWorkspaceBytes = 32 << 20;

// What is used of the library.
struct CublasLt {
  void* library = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtMatmulDescCreate) description = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_description = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;

  template <class Function>
  bool Find(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(library, name));
    return *function != nullptr;
  }
  bool Open() {
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
      library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
      if (library != nullptr) break;
    }
    return library != nullptr && Find("cublasLtCreate", &create) &&
           Find("cublasLtMatmulDescCreate", &description) &&
           Find("cublasLtMatmulDescSetAttribute", &set_description) &&
           Find("cublasLtMatrixLayoutCreate", &layout) &&
           Find("cublasLtMatmulPreferenceCreate", &preference) &&
           Find("cublasLtMatmulPreferenceSetAttribute", &set_preference) &&
           Find("cublasLtMatmulAlgoGetHeuristic", &heuristic) &&
           Find("cublasLtMatmul", &matmul);
  }
};

// Random values: of zeros a card computes more than it can of others.
void* RandomMatrix(int64_t values) {
  std::vector<uint16_t> host(1 << 22);
  std::mt19937 random(1);
  for (uint16_t& value : host) {
    // 0x3f80 is 1: sign and mantissa are random, the exponent one of four.
    value = static_cast<uint16_t>((random() & 0x807f) |
                                  ((124 + (random() & 3)) << 7));
  }
  char* device = nullptr;
  if (cudaMalloc(reinterpret_cast<void**>(&device), 2 * values) !=
      cudaSuccess) {
    return nullptr;
  }
  for (int64_t at = 0; at < values; at += host.size()) {
    const int64_t count = std::min<int64_t>(host.size(), values - at);
    if (cudaMemcpy(device + 2 * at, host.data(), 2 * count,
                   cudaMemcpyHostToDevice) != cudaSuccess) {
      return nullptr;
    }
  }
  return device;
}

}  // namespace

double MatrixRate(int size, std::string* reason) {
  CublasLt lt;
  if (!lt.Open()) {
    const char* const error = dlerror();
    *reason = error != nullptr ? error : "libcublasLt lacks a function";
    return 0;
  }
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t layout = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulHeuristicResult_t found;
  int count = 0;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  const int64_t values = int64_t{size} * size;
  void* const a = RandomMatrix(values);
  void* const b = RandomMatrix(values);
  void* const c = RandomMatrix(values);
  void* workspace = nullptr;
  *reason = "cuBLASLt has no product of this shape";
  if (a == nullptr || b == nullptr || c == nullptr ||
      cudaMalloc(&workspace, kWorkspaceBytes) != cudaSuccess ||
      lt.create(&handle) != CUBLAS_STATUS_SUCCESS ||
      lt.description(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F) !=
          CUBLAS_STATUS_SUCCESS ||
      lt.set_description(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                         sizeof transposed) != CUBLAS_STATUS_SUCCESS ||
      lt.layout(&layout, CUDA_R_16BF, size, size, size) !=
          CUBLAS_STATUS_SUCCESS ||
      lt.preference(&preference) != CUBLAS_STATUS_SUCCESS ||
      lt.set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                        &kWorkspaceBytes,
                        sizeof kWorkspaceBytes) != CUBLAS_STATUS_SUCCESS ||
      lt.heuristic(handle, product, layout, layout, layout, layout, preference,
                   1, &found, &count) != CUBLAS_STATUS_SUCCESS ||
      count == 0) {
    return 0;
  }
  const float one = 1, zero = 0;
  const float milliseconds = Milliseconds(10, [&] {
    return lt.matmul(handle, product, &one, a, layout, b, layout, &zero, c,
                     layout, c, layout, &found.algo, workspace, kWorkspaceBytes,
                     cudaStreamPerThread) == CUBLAS_STATUS_SUCCESS
               ? cudaSuccess
               : cudaErrorUnknown;
  });
  if (milliseconds <= 0) return 0;
  reason->clear();
  return 2.0 * size * size * size / milliseconds / 1e9;
}

}  // namespace engram

// cuBLASLt's names on the emulated device. Of products it has those that
// Engram asks for: a turned, 16-bit values, float32 results and sums.
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <array>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "tests/cuda_emulation/device/cublaslt_product.h"
#include "tests/cuda_emulation/device/device_memory.h"
#include "tests/cuda_emulation/device/devices.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/planted_error.h"
#include "tests/cuda_emulation/device/queue.h"

// NOLINTBEGIN: the names are CUDA's.

struct cublasLtContext {
  int device;
};
struct cublasLtMatmulDescOpaque_t {
  cublasOperation_t a_operation;
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType type;
  int64_t rows;
  int64_t columns;
  int64_t leading;
};
struct cublasLtMatmulPreferenceOpaque_t {
  // What it begins with is what a caller gets who does not ask for less.
  uint32_t result_alignment = 256;
};

namespace engram::emulation {
namespace {

std::map<Algorithm, int64_t>& Runs() {
  static auto* runs = new std::map<Algorithm, int64_t>;
  return *runs;
}

template <class Value>
cublasStatus_t Read(const void* value, size_t bytes, Value* into) {
  if (bytes != sizeof(Value)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(into, value, sizeof(Value));
  return CUBLAS_STATUS_SUCCESS;
}

// From one column to the next, and of the last one what there is.
size_t BytesOf(const cublasLtMatrixLayoutOpaque_t& layout) {
  const size_t value_bytes = layout.type == CUDA_R_32F ? 4 : 2;
  return ((layout.columns - 1) * layout.leading + layout.rows) * value_bytes;
}

bool HasShapes(const cublasLtMatmulDescOpaque_t& description,
               const cublasLtMatrixLayoutOpaque_t& a,
               const cublasLtMatrixLayoutOpaque_t& b,
               const cublasLtMatrixLayoutOpaque_t& c,
               const cublasLtMatrixLayoutOpaque_t& d) {
  return description.a_operation == CUBLAS_OP_T && a.rows == b.rows &&
         a.rows % 16 == 0 && a.type == b.type && a.type != CUDA_R_32F &&
         c.type == CUDA_R_32F && d.type == CUDA_R_32F && d.rows == a.columns &&
         d.columns == b.columns && c.rows == d.rows && c.columns == d.columns;
}

// Of the device's memory, or null where it is not all one allocation's.
template <class Value>
Value* BytesAt(const DeviceMemory& memory, const void* address,
               const cublasLtMatrixLayoutOpaque_t& layout) {
  if (!memory.Contains(address, BytesOf(layout))) return nullptr;
  return reinterpret_cast<Value*>(memory.Data(address));
}

}  // namespace

std::vector<Algorithm>& algorithms() {
  static auto* algorithms = new std::vector<Algorithm>{
      Algorithm::kSplit,     Algorithm::kSplitsInside, Algorithm::kRefuses,
      Algorithm::kAddsFirst, Algorithm::kNeedsAligned, Algorithm::kPlain};
  return *algorithms;
}

int64_t runs(Algorithm algorithm) { return Runs()[algorithm]; }

void* CublasLtFunction(const char* name) {
  static const auto* const functions = new std::map<std::string, void*>{
#define ENGRAM_FUNCTION(function) \
  {#function, reinterpret_cast<void*>(&function)}
      ENGRAM_FUNCTION(cublasLtGetVersion),
      ENGRAM_FUNCTION(cublasLtCreate),
      ENGRAM_FUNCTION(cublasLtDestroy),
      ENGRAM_FUNCTION(cublasLtMatmulDescCreate),
      ENGRAM_FUNCTION(cublasLtMatmulDescDestroy),
      ENGRAM_FUNCTION(cublasLtMatmulDescSetAttribute),
      ENGRAM_FUNCTION(cublasLtMatrixLayoutCreate),
      ENGRAM_FUNCTION(cublasLtMatrixLayoutDestroy),
      ENGRAM_FUNCTION(cublasLtMatmulPreferenceCreate),
      ENGRAM_FUNCTION(cublasLtMatmulPreferenceDestroy),
      ENGRAM_FUNCTION(cublasLtMatmulPreferenceSetAttribute),
      ENGRAM_FUNCTION(cublasLtMatmulAlgoGetHeuristic),
      ENGRAM_FUNCTION(cublasLtMatmulAlgoConfigGetAttribute),
      ENGRAM_FUNCTION(cublasLtMatmul),
#undef ENGRAM_FUNCTION
  };
  const auto found = functions->find(name);
  return options().cublaslt && found != functions->end() ? found->second
                                                         : nullptr;
}

}  // namespace engram::emulation

using engram::emulation::Algorithm;
using engram::emulation::algorithms;
using engram::emulation::BytesAt;
using engram::emulation::DeviceMemory;
using engram::emulation::DeviceOf;
using engram::emulation::Enqueue;
using engram::emulation::Exists;
using engram::emulation::FailsNow;
using engram::emulation::HasShapes;
using engram::emulation::LibraryProduct;
using engram::emulation::Lock;
using engram::emulation::Read;
using engram::emulation::RunProduct;
using engram::emulation::Runs;
using engram::emulation::RuntimeMutex;
using engram::emulation::StickyError;
using engram::emulation::Work;

size_t cublasLtGetVersion() { return 130'100; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) {
    return CUBLAS_STATUS_NOT_INITIALIZED;
  }
  // Of a device that failed nobody gives it back: it is the device's own.
  static std::array<cublasLtContext, engram::emulation::kMostDevices> contexts;
  contexts[device].device = device;
  *handle = &contexts[device];
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t) {
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description,
                                        cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  *description = new cublasLtMatmulDescOpaque_t{CUBLAS_OP_N};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete description;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(
    cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute,
    const void* value, size_t bytes) {
  if (attribute != CUBLASLT_MATMUL_DESC_TRANSA) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return Read(value, bytes, &description->a_operation);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout,
                                          cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  if (leading < static_cast<int64_t>(rows) || rows == 0 || columns == 0) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  *layout = new cublasLtMatrixLayoutOpaque_t{
      type, static_cast<int64_t>(rows), static_cast<int64_t>(columns), leading};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(
    cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(
    cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(
    cublasLtMatmulPreference_t preference,
    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
    size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES) {
    return Read(value, bytes, &preference->result_alignment);
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t, cublasLtMatmulDesc_t description,
    cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
    cublasLtMatmulPreference_t preference, int requested,
    cublasLtMatmulHeuristicResult_t results[], int* returned) {
  *returned = 0;
  if (!HasShapes(*description, *a, *b, *c, *d)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  for (const Algorithm algorithm : algorithms()) {
    if (*returned == requested) break;
    if (algorithm == Algorithm::kNeedsAligned &&
        preference->result_alignment < 256) {
      continue;
    }
    cublasLtMatmulHeuristicResult_t& result = results[(*returned)++];
    result = {};
    result.algo.data[0] = static_cast<uint64_t>(algorithm);
  }
  return *returned > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(
    const cublasLtMatmulAlgo_t* algorithm,
    cublasLtMatmulAlgoConfigAttributes_t attribute, void* value, size_t bytes,
    size_t* written) {
  const auto kind = static_cast<Algorithm>(algorithm->data[0]);
  const int32_t answer = kind == Algorithm::kSplit ? 2 : 1;
  if (attribute != CUBLASLT_ALGO_CONFIG_SPLITK_NUM || bytes != sizeof(answer)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  std::memcpy(value, &answer, sizeof(answer));
  if (written != nullptr) *written = sizeof(answer);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle,
                              cublasLtMatmulDesc_t description,
                              const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout,
                              void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void*,
                              size_t, cudaStream_t stream) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED;
  const auto kind = static_cast<Algorithm>(algorithm->data[0]);
  ++Runs()[kind];
  if (!Exists(stream) || DeviceOf(stream) != handle->device ||
      *static_cast<const float*>(alpha) != 1.0f) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (!HasShapes(*description, *a_layout, *b_layout, *c_layout, *d_layout) ||
      kind == Algorithm::kRefuses ||
      (kind == Algorithm::kRefusesMany && d_layout->columns > 128) ||
      (kind == Algorithm::kNeedsAligned &&
       reinterpret_cast<uintptr_t>(d) % 256 != 0)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const DeviceMemory& memory = DeviceMemory::Of(handle->device);
  LibraryProduct product;
  product.is_float16 = a_layout->type == CUDA_R_16F;
  product.rows = d_layout->rows;
  product.columns = d_layout->columns;
  product.depth = a_layout->rows;
  product.beta = *static_cast<const float*>(beta);
  product.a = BytesAt<uint16_t>(memory, a, *a_layout);
  product.b = BytesAt<uint16_t>(memory, b, *b_layout);
  product.c = BytesAt<float>(memory, c, *c_layout);
  product.d = BytesAt<float>(memory, d, *d_layout);
  product.a_leading = a_layout->leading;
  product.b_leading = b_layout->leading;
  product.c_leading = c_layout->leading;
  product.d_leading = d_layout->leading;
  if (product.a == nullptr || product.b == nullptr || product.c == nullptr ||
      product.d == nullptr) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const auto run = [product, kind] {
    if (!FailsNow()) RunProduct(product, kind);
  };
  const cudaError_t error = Enqueue(stream, [run] {
    return Work{nullptr, run};
  });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                              : CUBLAS_STATUS_EXECUTION_FAILED;
}

// NOLINTEND

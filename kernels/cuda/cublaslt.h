// CublasLt: NVIDIA's library of matrix products, opened where it is installed.
// Nothing is linked with it: its headers give types alone.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <string>

#include "absl/status/statusor.h"

namespace engram::cuda {

// The functions that are used, as cublasLt.h has them.
struct CublasLt {
  decltype(&cublasLtGetVersion) version = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmulDescCreate) create_description = nullptr;
  decltype(&cublasLtMatmulDescDestroy) destroy_description = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_description = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) create_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) find_algorithms = nullptr;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) get_configuration = nullptr;
  decltype(&cublasLtMatmul) multiply = nullptr;

  // "cuBLASLt 13.1.0".
  std::string Name() const;
};

// That of a file, which stays open. NOT_FOUND with the reason if there is no
// such library, or not all of these in it.
absl::StatusOr<CublasLt> OpenCublasLt(const char* file);

// libcublasLt.so.13 where the system finds it; the emulated device's in a build
// for that. Errors likewise.
absl::StatusOr<CublasLt> FindCublasLt();

}  // namespace engram::cuda

#include "tests/device_facts/cublas_lt.h"

#include "absl/status/statusor.h"

namespace engram {

const CublasLt* FindCublasLt(std::string* reason) {
  static const absl::StatusOr<CublasLt> library = cuda::FindCublasLt();
  if (library.ok()) return &*library;
  *reason = std::string(library.status().message());
  return nullptr;
}

LtProduct::LtProduct(const CublasLt& library, const Shape& shape)
    : library_(library), shape_(shape) {
  const cublasOperation_t transposed = CUBLAS_OP_T;
  const auto done = [](cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS;
  };
  // It has columns where we have rows: yᵀ = W xᵀ, of Wᵀ and xᵀ.
  works_ = done(library.create(&handle_)) &&
           done(library.create_description(&product_, CUBLAS_COMPUTE_32F,
                                           CUDA_R_32F)) &&
           done(library.set_description(product_, CUBLASLT_MATMUL_DESC_TRANSA,
                                        &transposed, sizeof transposed)) &&
           done(library.create_layout(&weight_, CUDA_R_16BF, shape.inputs,
                                      shape.outputs, shape.stride)) &&
           done(library.create_layout(&x_, CUDA_R_16BF, shape.inputs,
                                      shape.tokens, shape.stride)) &&
           done(library.create_layout(&y_, shape.y, shape.outputs, shape.tokens,
                                      shape.outputs)) &&
           (shape.workspace_bytes == 0 ||
            cudaMalloc(&workspace_, shape.workspace_bytes) == cudaSuccess);
}

std::vector<cublasLtMatmulAlgo_t> LtProduct::Algorithms(int most,
                                                        bool in_one_piece) {
  std::vector<cublasLtMatmulHeuristicResult_t> found(most);
  cublasLtMatmulPreference_t preference = nullptr;
  const uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
  int count = 0;
  if (!works_ ||
      library_.create_preference(&preference) != CUBLAS_STATUS_SUCCESS ||
      library_.set_preference(
          preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
          &shape_.workspace_bytes,
          sizeof shape_.workspace_bytes) != CUBLAS_STATUS_SUCCESS ||
      (in_one_piece &&
       library_.set_preference(
           preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           &no_reduction, sizeof no_reduction) != CUBLAS_STATUS_SUCCESS) ||
      library_.find_algorithms(handle_, product_, weight_, x_, y_, y_,
                               preference, most, found.data(),
                               &count) != CUBLAS_STATUS_SUCCESS) {
    return {};
  }
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; ++i) {
    int32_t pieces = 0;
    size_t written = 0;
    if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
    if (in_one_piece &&
        (library_.get_configuration(
             &found[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &pieces,
             sizeof pieces, &written) != CUBLAS_STATUS_SUCCESS ||
         pieces > 1)) {
      continue;
    }
    algorithms.push_back(found[i].algo);
  }
  return algorithms;
}

cudaError_t LtProduct::Begin(const cublasLtMatmulAlgo_t& algorithm,
                             const void* x, const void* weight, void* y,
                             cudaStream_t stream) {
  const float one = 1, zero = 0;
  return works_ && library_.multiply(handle_, product_, &one, weight, weight_,
                                     x, x_, &zero, y, y_, y, y_, &algorithm,
                                     workspace_, shape_.workspace_bytes,
                                     stream) == CUBLAS_STATUS_SUCCESS
             ? cudaSuccess
             : cudaErrorUnknown;
}

}  // namespace engram

#include "tests/device_facts/matrix_rate.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/cublaslt.h"
#include "tests/device_facts/device_array.h"
#include "tests/device_facts/milliseconds.h"
#include "tests/device_facts/mma_facts.h"

namespace engram {
namespace {

constexpr size_t kWorkspaceBytes = 32 << 20;

// y [tokens, outputs] = x [tokens, inputs] Wᵀ in bfloat16, summed in float32,
// as the library likes it best. Is never destroyed, as all of a program that
// ends soon.
class LibraryProduct {
 public:
  LibraryProduct(const cuda::CublasLt& library, int64_t tokens, int64_t outputs,
                 int64_t inputs)
      : library_(library) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    const auto done = [](cublasStatus_t status) {
      return status == CUBLAS_STATUS_SUCCESS;
    };
    // It has columns where we have rows: yᵀ = W xᵀ, of Wᵀ and xᵀ.
    works_ =
        done(library.create(&handle_)) &&
        done(library.create_description(&product_, CUBLAS_COMPUTE_32F,
                                        CUDA_R_32F)) &&
        done(library.set_description(product_, CUBLASLT_MATMUL_DESC_TRANSA,
                                     &transposed, sizeof transposed)) &&
        done(library.create_layout(&weight_, CUDA_R_16BF, inputs, outputs,
                                   inputs)) &&
        done(library.create_layout(&x_, CUDA_R_16BF, inputs, tokens, inputs)) &&
        done(library.create_layout(&y_, CUDA_R_16BF, outputs, tokens,
                                   outputs)) &&
        cudaMalloc(&workspace_, kWorkspaceBytes) == cudaSuccess &&
        done(library.create_preference(&preference)) &&
        done(library.set_preference(
            preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &kWorkspaceBytes, sizeof kWorkspaceBytes)) &&
        done(library.find_algorithms(handle_, product_, weight_, x_, y_, y_,
                                     preference, 1, &found, &count)) &&
        count == 1 && done(found.state);
    if (works_) algorithm_ = found.algo;
  }

  cudaError_t Begin(const void* x, const void* weight, void* y,
                    cudaStream_t stream) const {
    const float one = 1, zero = 0;
    return works_ && library_.multiply(handle_, product_, &one, weight, weight_,
                                       x, x_, &zero, y, y_, y, y_, &algorithm_,
                                       workspace_, kWorkspaceBytes,
                                       stream) == CUBLAS_STATUS_SUCCESS
               ? cudaSuccess
               : cudaErrorUnknown;
  }

 private:
  const cuda::CublasLt& library_;
  bool works_ = false;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t weight_ = nullptr, x_ = nullptr, y_ = nullptr;
  void* workspace_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_;
};

}  // namespace

double MatrixRate(int64_t tokens, int64_t outputs, int64_t inputs,
                  std::string* reason) {
  const absl::StatusOr<cuda::CublasLt> library = cuda::FindCublasLt();
  if (!library.ok()) {
    *reason = std::string(library.status().message());
    return 0;
  }
  const std::vector<uint16_t> halves =
      RandomHalves(/*is_float16=*/false, 1, 1 << 22);
  const DeviceArray<uint16_t> x(halves, tokens * inputs);
  const DeviceArray<uint16_t> weight(halves, outputs * inputs);
  const DeviceArray<uint16_t> y(halves, tokens * outputs);
  const LibraryProduct product(*library, tokens, outputs, inputs);
  const float milliseconds = Milliseconds(10, [&] {
    return product.Begin(x.data(), weight.data(), y.data(),
                         cudaStreamPerThread);
  });
  if (milliseconds <= 0) {
    *reason = "cuBLASLt has no product of this shape";
    return 0;
  }
  return 2.0 * tokens * outputs * inputs / milliseconds / 1e9;
}

}  // namespace engram

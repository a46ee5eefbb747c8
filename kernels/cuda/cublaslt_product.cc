#include "kernels/cuda/cublaslt_product.h"

#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/device_status.h"
#include "kernels/status.h"

namespace engram::cuda {
namespace {

constexpr int kAlgorithmsMax = 32;

cudaDataType TypeOf(const WeightView& weight) {
  return weight.format == WeightFormat::kFloat16 ? CUDA_R_16F : CUDA_R_16BF;
}

}  // namespace

// The library counts columns where we count rows: a matrix [rows, columns] of
// ours is one [columns, rows] of its.
class CublasLtProduct::Layout {
 public:
  Layout(const CublasLt& lt, cudaDataType type, int64_t rows, int64_t columns,
         int64_t stride)
      : lt_(lt) {
    if (lt_.create_layout(&layout_, type, columns, rows, stride) !=
        CUBLAS_STATUS_SUCCESS) {
      layout_ = nullptr;
    }
  }
  ~Layout() {
    if (layout_ != nullptr) (void)lt_.destroy_layout(layout_);
  }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;

  bool ok() const { return layout_ != nullptr; }
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  const CublasLt& lt_;
  cublasLtMatrixLayout_t layout_ = nullptr;
};

// Of a product of so many tokens.
struct CublasLtProduct::Layouts {
  Layouts(const CublasLt& lt, const WeightView& weight, int64_t tokens,
          int64_t y_stride)
      : w(lt, TypeOf(weight), weight.outputs, weight.stride, weight.stride),
        x(lt, TypeOf(weight), tokens, weight.stride, weight.stride),
        y(lt, CUDA_R_32F, tokens, weight.outputs, y_stride) {}

  bool ok() const { return w.ok() && x.ok() && y.ok(); }

  const Layout w, x, y;
};

absl::StatusOr<std::unique_ptr<CublasLtProduct>> CublasLtProduct::Make() {
  ENGRAM_ASSIGN_OR_RETURN(const CublasLt lt, FindCublasLt());
  std::unique_ptr<CublasLtProduct> product(new CublasLtProduct(lt));
  ENGRAM_RETURN_IF_ERROR(product->Open());
  return product;
}

absl::Status CublasLtProduct::Open() {
  const auto check = [this](cublasStatus_t status) {
    if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
    return absl::NotFoundError(
        absl::StrCat(name(), " fails with status ", static_cast<int>(status)));
  };
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute,
                          auto value) {
    return check(
        lt_.set_preference(preference_, attribute, &value, sizeof(value)));
  };
  ENGRAM_RETURN_IF_ERROR(check(lt_.create(&handle_)));
  ENGRAM_RETURN_IF_ERROR(check(
      lt_.create_description(&description_, CUBLAS_COMPUTE_32F, CUDA_R_32F)));
  const auto turned = static_cast<int32_t>(CUBLAS_OP_T);
  ENGRAM_RETURN_IF_ERROR(check(lt_.set_description(
      description_, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof(turned))));
  ENGRAM_RETURN_IF_ERROR(check(lt_.create_preference(&preference_)));
  // What it may take in memory decides what it chooses, and so what it splits.
  ENGRAM_RETURN_IF_ERROR(
      prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{0}));
  ENGRAM_RETURN_IF_ERROR(
      prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{0}));
  // Weights and rounded inputs begin where it takes for granted; y does not.
  for (const auto result : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    ENGRAM_RETURN_IF_ERROR(prefer(result, uint32_t{16}));
  }
  return absl::OkStatus();
}

CublasLtProduct::~CublasLtProduct() {
  if (preference_ != nullptr) (void)lt_.destroy_preference(preference_);
  if (description_ != nullptr) (void)lt_.destroy_description(description_);
  if (handle_ != nullptr && !DeviceIsLost()) (void)lt_.destroy(handle_);
}

bool CublasLtProduct::Splits(const cublasLtMatmulAlgo_t& algorithm) const {
  int32_t parts = 0;
  size_t written = 0;
  return lt_.get_configuration(&algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
                               &parts, sizeof(parts),
                               &written) != CUBLAS_STATUS_SUCCESS ||
         parts > 1;
}

int64_t CublasLtProduct::ResultStride(const WeightView& weight) {
  return (weight.outputs + 3) / 4 * 4;
}

std::vector<cublasLtMatmulAlgo_t> CublasLtProduct::Algorithms(
    const WeightView& weight, int64_t tokens) const {
  const Layouts layouts(lt_, weight, tokens, ResultStride(weight));
  if (!layouts.ok()) return {};
  std::vector<cublasLtMatmulHeuristicResult_t> results(kAlgorithmsMax);
  int count = 0;
  if (lt_.find_algorithms(handle_, description_, layouts.w.get(),
                          layouts.x.get(), layouts.y.get(), layouts.y.get(),
                          preference_, kAlgorithmsMax, results.data(),
                          &count) != CUBLAS_STATUS_SUCCESS) {
    return {};
  }
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulHeuristicResult_t& result = results[i];
    if (result.state != CUBLAS_STATUS_SUCCESS || result.workspaceSize > 0 ||
        Splits(result.algo)) {
      continue;
    }
    algorithms.push_back(result.algo);
  }
  return algorithms;
}

bool CublasLtProduct::AreEqual(const cublasLtMatmulAlgo_t& a,
                               const cublasLtMatmulAlgo_t& b) {
  return std::memcmp(a.data, b.data, sizeof(a.data)) == 0;
}

bool CublasLtProduct::Begin(cudaStream_t stream,
                            const cublasLtMatmulAlgo_t& algorithm,
                            const WeightView& weight, int64_t tokens,
                            const void* x, Matrix y, bool accumulate) const {
  const Layouts layouts(lt_, weight, tokens, y.stride);
  if (!layouts.ok()) return false;
  const float one = 1.0f, before = accumulate ? 1.0f : 0.0f;
  return lt_.multiply(handle_, description_, &one, weight.values,
                      layouts.w.get(), x, layouts.x.get(), &before, y.data,
                      layouts.y.get(), y.data, layouts.y.get(), &algorithm,
                      nullptr, 0, stream) == CUBLAS_STATUS_SUCCESS;
}

}  // namespace engram::cuda

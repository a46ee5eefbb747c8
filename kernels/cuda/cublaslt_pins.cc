#include "kernels/cuda/cublaslt_pins.h"

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"
#include "kernels/cuda/cublaslt_operands.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_status.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/cuda/product.h"
#include "kernels/status.h"

namespace engram::cuda {
namespace {

constexpr int64_t kTrialTokens = 128;
// Of the numbers that trials begin with.
constexpr uint32_t kWeightSeed = 1, kInputSeed = 2, kBeforeSeed = 3;

// What trials with a weight have memory for, in bytes, all of them multiples of
// 16, as what is behind them has to begin.
struct TrialParts {
  explicit TrialParts(const WeightView& weight)
      : x(kTrialTokens * weight.stride * 4),
        rounded(kTrialTokens * weight.stride * 2),
        y(kTrialTokens * CublasLtProduct::ResultStride(weight) * 4) {}

  size_t sum() const { return x + rounded + 2 * y + sizeof(uint32_t); }

  size_t x, rounded, y;
};

// The trials of one shape, in memory of their own and in the weight's.
class Trials {
 public:
  Trials(const CublasLtProduct& library, const WeightView& weight,
         cudaStream_t stream)
      : library_(library),
        weight_(weight),
        stream_(stream),
        y_stride_(CublasLtProduct::ResultStride(weight)) {}

  absl::Status Prepare() {
    const TrialParts parts(weight_);
    ENGRAM_ASSIGN_OR_RETURN(memory_, AllocateDeviceMemory(parts.sum()));
    auto* next = static_cast<std::byte*>(memory_->data());
    const auto take = [&next](size_t bytes) {
      return std::exchange(next, next + bytes);
    };
    x_ = {take(parts.x), weight_.stride};
    rounded_ = take(parts.rounded);
    by_tile_ = {take(parts.y), y_stride_};
    by_library_ = {take(parts.y), y_stride_};
    differences_ = reinterpret_cast<uint32_t*>(take(sizeof(uint32_t)));
    Note(FillWithOdd(stream_, weight_.format, const_cast<void*>(weight_.values),
                     weight_.outputs * weight_.stride, kWeightSeed));
    Note(FillWithOdd(stream_, WeightFormat::kFloat32,
                     const_cast<void*>(x_.data), kTrialTokens * x_.stride,
                     kInputSeed));
    Note(RoundInputs(stream_, Product(/*accumulate=*/false), rounded_));
    return Status();
  }

  absl::StatusOr<ShapePins> Run() {
    ShapePins found;
    std::vector<cublasLtMatmulAlgo_t> algorithms[ShapePins::kBuckets];
    for (int bucket = 0; bucket < ShapePins::kBuckets; ++bucket) {
      algorithms[bucket] =
          library_.Algorithms(weight_, ShapePins::kTokens[bucket]);
    }
    for (const bool accumulate : {false, true}) {
      FillBefore(by_tile_);
      Note(TileProduct(stream_, Product(accumulate)));
      tried_.clear();
      for (int bucket = 0; bucket < ShapePins::kBuckets; ++bucket) {
        ENGRAM_ASSIGN_OR_RETURN(found.pins[accumulate][bucket],
                                FirstEqual(algorithms[bucket], accumulate));
      }
    }
    return found;
  }

 private:
  ProductArguments Product(bool accumulate) const {
    MatMulOptions options;
    options.accumulate = accumulate;
    return ArgumentsOf(weight_, kTrialTokens, x_, options, by_tile_);
  }

  // What is added to, or what a product has to write over.
  void FillBefore(Matrix y) {
    Note(FillWithOdd(stream_, WeightFormat::kFloat32, y.data,
                     kTrialTokens * y.stride, kBeforeSeed));
  }

  absl::StatusOr<ShapePins::Pin> FirstEqual(
      const std::vector<cublasLtMatmulAlgo_t>& algorithms, bool accumulate) {
    ShapePins::Pin pin;
    for (const cublasLtMatmulAlgo_t& algorithm : algorithms) {
      ++pin.tried;
      ENGRAM_ASSIGN_OR_RETURN(const bool equal, IsEqual(algorithm, accumulate));
      if (!equal) continue;
      pin.algorithm = algorithm;
      break;
    }
    return pin;
  }

  // Whether it gives all the bits of `by_tile_`: not if it refuses.
  absl::StatusOr<bool> IsEqual(const cublasLtMatmulAlgo_t& algorithm,
                               bool accumulate) {
    for (const auto& [known, was_equal] : tried_) {
      if (CublasLtProduct::AreEqual(known, algorithm)) return was_equal;
    }
    FillBefore(by_library_);
    Note(cudaMemsetAsync(differences_, 0, sizeof(*differences_), stream_));
    const bool begun = library_.Begin(stream_, algorithm, weight_, kTrialTokens,
                                      rounded_, by_library_, accumulate);
    Note(CountDifferences(stream_, by_tile_.floats(), by_library_.floats(),
                          kTrialTokens * y_stride_, differences_));
    uint32_t differences = 0;
    Note(cudaMemcpyAsync(&differences, differences_, sizeof(differences),
                         cudaMemcpyDeviceToHost, stream_));
    Note(cudaStreamSynchronize(stream_));
    ENGRAM_RETURN_IF_ERROR(Status());
    const bool equal = begun && differences == 0;
    tried_.emplace_back(algorithm, equal);
    return equal;
  }

  void Note(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }
  absl::Status Status() const {
    return DeviceStatus(error_, "trying cuBLASLt's algorithms");
  }

  const CublasLtProduct& library_;
  const WeightView& weight_;
  const cudaStream_t stream_;
  const int64_t y_stride_;
  cudaError_t error_ = cudaSuccess;
  std::unique_ptr<Buffer> memory_;
  ConstMatrix x_;
  void* rounded_ = nullptr;
  Matrix by_tile_, by_library_;
  uint32_t* differences_ = nullptr;
  // What is known of algorithms, which are the same for several buckets.
  std::vector<std::pair<cublasLtMatmulAlgo_t, bool>> tried_;
};

absl::StatusOr<ShapePins> Try(const CublasLtProduct& library,
                              const WeightView& weight, cudaStream_t stream) {
  Trials trials(library, weight, stream);
  const absl::Status prepared = trials.Prepare();
  if (absl::IsResourceExhausted(prepared)) return ShapePins();
  ENGRAM_RETURN_IF_ERROR(prepared);
  absl::StatusOr<ShapePins> found = trials.Run();
  // The memory goes.
  if (!DeviceIsLost()) (void)cudaStreamSynchronize(stream);
  return found;
}

}  // namespace

WeightShape ShapeOf(const WeightView& weight) {
  return {weight.outputs, weight.inputs, weight.format};
}

std::optional<int> ShapePins::BucketOf(int64_t tokens) {
  for (int bucket = kBuckets - 1; bucket >= 0; --bucket) {
    if (tokens >= kTokens[bucket]) return bucket;
  }
  return std::nullopt;
}

absl::StatusOr<std::shared_ptr<CublasLtPins>> CublasLtPins::Of(int device) {
  ABSL_CONST_INIT static absl::Mutex mutex(absl::kConstInit);
  static auto* const all = new std::map<int, std::weak_ptr<CublasLtPins>>;
  absl::MutexLock lock(&mutex);
  std::weak_ptr<CublasLtPins>& known = (*all)[device];
  std::shared_ptr<CublasLtPins> pins = known.lock();
  if (pins == nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<CublasLtProduct> library,
                            CublasLtProduct::Make());
    pins.reset(new CublasLtPins(std::move(library)));
    known = pins;
  }
  return pins;
}

size_t CublasLtPins::TrialBytes(const WeightShape& shape) {
  return TrialParts(LayoutOf(shape)).sum();
}

absl::StatusOr<const ShapePins*> CublasLtPins::Prove(const WeightView& weight,
                                                     cudaStream_t stream) {
  absl::MutexLock lock(&mutex_);
  const auto known = shapes_.find(ShapeOf(weight));
  if (known != shapes_.end()) return &known->second;
  ENGRAM_ASSIGN_OR_RETURN(const ShapePins found,
                          Try(*library_, weight, stream));
  return &shapes_.emplace(ShapeOf(weight), found).first->second;
}

}  // namespace engram::cuda

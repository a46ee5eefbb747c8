// CublasLtPins: which of cuBLASLt's algorithms give the bits of TileProduct, by
// trial, for each shape of a device's weights.
//
// A row's bits may depend on no other row and on nothing that runs, so that an
// algorithm which sums in another order is of no use. None says in which it
// does.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/backend.h"
#include "kernels/cuda/cublaslt_product.h"
#include "kernels/cuda/weight_view.h"
#include "kernels/operations.h"

namespace engram::cuda {

WeightShape ShapeOf(const WeightView& weight);

// Of one shape. A pin serves products of so many tokens and of more, up to the
// next number; one that adds to y, as `accumulate` does, is another one.
struct ShapePins {
  static constexpr int kBuckets = 6;
  static constexpr int64_t kTokens[kBuckets] = {64, 128, 256, 512, 1024, 2048};
  struct Pin {
    std::optional<cublasLtMatmulAlgo_t> algorithm;
    int tried = 0;  // up to it
  };
  Pin pins[2][kBuckets];  // the first to write y, the second to add

  // The bucket of so many tokens; nothing if they are too few for any.
  static std::optional<int> BucketOf(int64_t tokens);
};

// Thread-safe.
class CublasLtPins {
 public:
  // Those of a device, which must be current: one object for all back ends on
  // it, as long as any has it. Errors: CublasLtProduct::Make's.
  static absl::StatusOr<std::shared_ptr<CublasLtPins>> Of(int device);

  const CublasLtProduct& library() const { return *library_; }

  // What trials take of the device's memory.
  static size_t TrialBytes(const WeightShape& shape);

  // Of weights of this shape and format, by trials the first time. They take
  // place in the weight's memory, whose values are lost; as much as 128 tokens'
  // inputs and twice their outputs is taken and given back, and where there is
  // no room nothing is pinned. Waits for the stream. INTERNAL if the device
  // fails. What is returned stays as long as this.
  // REQUIRES: of an order that is kPlain, and of 16 bits.
  absl::StatusOr<const ShapePins*> Prove(const WeightView& weight,
                                         cudaStream_t stream);

 private:
  explicit CublasLtPins(std::unique_ptr<CublasLtProduct> library)
      : library_(std::move(library)) {}

  const std::unique_ptr<CublasLtProduct> library_;
  absl::Mutex mutex_;
  std::map<WeightShape, ShapePins> shapes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram::cuda

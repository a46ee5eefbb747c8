// LargeProducts: products of many tokens, by cuBLASLt where that gives the bits
// of TileProduct.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/cublaslt_pins.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/weight_view.h"
#include "kernels/operations.h"

namespace engram::cuda {

// Of one back end.
class LargeProducts {
 public:
  // On a device, which must be current. Without the library all products are
  // Product()'s.
  explicit LargeProducts(int device);

  // Finds out what there is for weights of this shape, which has memory and no
  // values yet: it may be written. INTERNAL if the device fails.
  absl::Status Learn(const WeightView& weight, cudaStream_t stream);

  // What Learn() takes of the device's memory and gives back.
  size_t LearningBytes(const WeightShape& shape) const;

  // What products of at most `tokens` need, with these weights, and with all
  // that was learnt; and so much memory. REQUIRES: nothing is done with what it
  // had.
  size_t RoomFor(int64_t tokens, absl::Span<const WeightShape> weights) const;
  size_t RoomFor(int64_t tokens) const;
  size_t room() const { return room_ == nullptr ? 0 : room_->bytes(); }
  void SetRoom(std::unique_ptr<Buffer> room) { room_ = std::move(room); }

  // As Product(), to the bit.
  cudaError_t Begin(cudaStream_t stream, const ProductArguments& product) const;

  ProductLibrary Tell() const;

 private:
  // False: nothing is begun.
  bool BeginByLibrary(cudaStream_t stream, const ProductArguments& product,
                      cudaError_t* error) const;

  bool IsForLibrary(const WeightShape& shape) const;

  // Or why there is no library.
  absl::StatusOr<std::shared_ptr<CublasLtPins>> pins_;
  std::map<WeightShape, const ShapePins*> shapes_;
  std::unique_ptr<Buffer> room_;
};

}  // namespace engram::cuda

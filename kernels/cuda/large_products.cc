#include "kernels/cuda/large_products.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/cublaslt_operands.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/status.h"

namespace engram::cuda {
namespace {

// A product's parts of the room, for each token: its rounded inputs, then sums
// that are added to y by us.
size_t InputBytes(const WeightView& weight) { return weight.stride * 2; }
size_t SumsBytes(const WeightView& weight) {
  return CublasLtProduct::ResultStride(weight) * sizeof(float);
}

// Both, where a product may need both: what models add to y is no wider than x.
size_t RoomBytes(const WeightView& weight) {
  const bool may_add = weight.outputs <= weight.inputs;
  return InputBytes(weight) + (may_add ? SumsBytes(weight) : 0);
}

}  // namespace

LargeProducts::LargeProducts(int device) : pins_(CublasLtPins::Of(device)) {}

bool LargeProducts::IsForLibrary(const WeightShape& shape) const {
  const bool has_16_bits = shape.format == WeightFormat::kBFloat16 ||
                           shape.format == WeightFormat::kFloat16;
  return pins_.ok() && has_16_bits &&
         OrderOf(shape.outputs, shape.inputs) == ProductOrder::kPlain;
}

size_t LargeProducts::LearningBytes(const WeightShape& shape) const {
  return IsForLibrary(shape) ? CublasLtPins::TrialBytes(shape) : 0;
}

absl::Status LargeProducts::Learn(const WeightView& weight,
                                  cudaStream_t stream) {
  if (!IsForLibrary(ShapeOf(weight))) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(const ShapePins* const pins,
                          (*pins_)->Prove(weight, stream));
  shapes_[ShapeOf(weight)] = pins;
  return absl::OkStatus();
}

size_t LargeProducts::RoomFor(int64_t tokens,
                              absl::Span<const WeightShape> weights) const {
  size_t bytes = 0;
  for (const WeightShape& shape : weights) {
    if (!IsForLibrary(shape)) continue;
    bytes = std::max(bytes, RoomBytes(LayoutOf(shape)));
  }
  return tokens * bytes;
}

size_t LargeProducts::RoomFor(int64_t tokens) const {
  std::vector<WeightShape> learnt;
  for (const auto& [shape, pins] : shapes_) learnt.push_back(shape);
  return RoomFor(tokens, learnt);
}

cudaError_t LargeProducts::Begin(cudaStream_t stream,
                                 const ProductArguments& product) const {
  cudaError_t error = cudaSuccess;
  if (BeginByLibrary(stream, product, &error)) return error;
  return Product(stream, product);
}

bool LargeProducts::BeginByLibrary(cudaStream_t stream,
                                   const ProductArguments& product,
                                   cudaError_t* error) const {
  const WeightView& weight = product.weight;
  const MatMulOptions& options = product.options;
  const std::optional<int> bucket = ShapePins::BucketOf(product.tokens);
  const auto known = shapes_.find(ShapeOf(weight));
  if (!bucket.has_value() || known == shapes_.end() || product.parts > 1) {
    return false;
  }
  const auto& pins = known->second->pins;
  // The bias comes before what was there.
  const bool library_adds = options.accumulate && options.bias == nullptr &&
                            pins[true][*bucket].algorithm.has_value() &&
                            AreFoursAligned(product.y);
  const ShapePins::Pin& pin = pins[library_adds][*bucket];
  const bool apart = options.accumulate && !library_adds;
  const size_t input_bytes = product.tokens * InputBytes(weight);
  const size_t sums_bytes = apart ? product.tokens * SumsBytes(weight) : 0;
  if (!pin.algorithm.has_value() || input_bytes + sums_bytes > room() ||
      (!apart && !AreFoursAligned(product.y))) {
    return false;
  }
  Matrix sums = product.y;
  if (apart) {
    sums = {static_cast<std::byte*>(room_->data()) + input_bytes,
            CublasLtProduct::ResultStride(weight)};
  }
  *error = RoundInputs(stream, product, room_->data());
  if (*error != cudaSuccess) return true;
  if (!(*pins_)->library().Begin(stream, *pin.algorithm, weight, product.tokens,
                                 room_->data(), sums, library_adds)) {
    return false;
  }
  if (!library_adds) *error = FinishSums(stream, product, sums);
  return true;
}

ProductLibrary LargeProducts::Tell() const {
  ProductLibrary told;
  if (!pins_.ok()) {
    told.absence = std::string(pins_.status().message());
    return told;
  }
  told.name = (*pins_)->library().name();
  for (const auto& [shape, pins] : shapes_) {
    for (const bool accumulate : {false, true}) {
      for (int bucket = 0; bucket < ShapePins::kBuckets; ++bucket) {
        const ShapePins::Pin& pin = pins->pins[accumulate][bucket];
        told.choices.push_back({.outputs = shape.outputs,
                                .inputs = shape.inputs,
                                .format = shape.format,
                                .tokens = ShapePins::kTokens[bucket],
                                .accumulates = accumulate,
                                .tried = pin.tried,
                                .found = pin.algorithm.has_value()});
      }
    }
  }
  return told;
}

}  // namespace engram::cuda

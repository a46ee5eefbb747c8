// Tensor: a non-owning view of row-major data in host memory, as a checkpoint
// holds it. Only weights travel as Tensors; activations are plain float*.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace engram {

enum class DataType { kFloat32, kBFloat16, kFloat16 };

// Bytes of one element.
size_t DataTypeBytes(DataType type);
// "F32", "BF16", "F16": the names that safetensors uses.
const char* DataTypeName(DataType type);

struct Tensor {
  DataType type = DataType::kFloat32;
  std::vector<int64_t> shape;
  const void* data = nullptr;  // may be unaligned; little-endian

  int64_t elements() const;
};

// "[24, 1536]".
std::string ShapeToString(const std::vector<int64_t>& shape);

// The elements widened to float32, exactly, in their row-major order.
std::vector<float> WidenToFloat32(const Tensor& tensor);
// The same for target.size() elements from `first` on, so that a large tensor
// needs no second copy. REQUIRES: they lie within the tensor.
void WidenToFloat32(const Tensor& tensor, int64_t first,
                    absl::Span<float> target);

// The nearest bfloat16 or float16 of `value`, ties to even; beyond the largest
// one it is infinity.
uint16_t NarrowToBFloat16(float value);
uint16_t NarrowToFloat16(float value);
float WidenBFloat16(uint16_t bits);
float WidenFloat16(uint16_t bits);

// The first element, in row-major order, that is NaN or infinite; -1: none.
int64_t FirstNonFinite(const Tensor& tensor);
int64_t FirstNonFinite(absl::Span<const float> values);

}  // namespace engram

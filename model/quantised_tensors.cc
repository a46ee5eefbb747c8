#include "model/quantised_tensors.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {

std::vector<QuantisedTensor> QuantisedTensors(const std::string& name,
                                              const WeightShape& shape) {
  const auto [outputs, inputs, format] = shape;
  const std::string scales = absl::StrCat(name, ".scales");
  if (format == WeightFormat::kInt8) {
    return {{name, "I8", {outputs, inputs}},
            {scales, "F32", {outputs, Int8Units(inputs)}}};
  }
  ENGRAM_CHECK(format == WeightFormat::kInt4);
  return {
      {name, "U8", {outputs, Int4RowBytes(inputs)}},
      {scales, "F16", {outputs, Int4Groups(inputs)}},
      {absl::StrCat(name, ".minimums"), "F16", {outputs, Int4Groups(inputs)}}};
}

absl::StatusOr<QuantisedMatrix> FindQuantisedMatrix(
    const Checkpoint& checkpoint, const std::string& name,
    const WeightShape& shape) {
  std::vector<const void*> data;
  for (const QuantisedTensor& tensor : QuantisedTensors(name, shape)) {
    ENGRAM_ASSIGN_OR_RETURN(
        data.emplace_back(),
        checkpoint.Data(tensor.name, tensor.type, tensor.shape));
  }
  return QuantisedMatrix{shape.format, shape.outputs,
                         shape.inputs, data[0],
                         data[1],      data.size() > 2 ? data[2] : nullptr};
}

bool SameValues(const QuantisedMatrix& a, const QuantisedMatrix& b) {
  const bool is_int8 = a.format == WeightFormat::kInt8;
  const int64_t row_bytes = is_int8 ? a.inputs : Int4RowBytes(a.inputs);
  const int64_t scale_bytes =
      is_int8 ? Int8Units(a.inputs) * static_cast<int64_t>(sizeof(float))
              : Int4Groups(a.inputs) * static_cast<int64_t>(sizeof(uint16_t));
  const auto same = [&a](const void* one, const void* other, int64_t bytes) {
    return std::memcmp(one, other, a.outputs * bytes) == 0;
  };
  return same(a.values, b.values, row_bytes) &&
         same(a.scales, b.scales, scale_bytes) &&
         (is_int8 || same(a.minimums, b.minimums, scale_bytes));
}

}  // namespace engram

// How a checkpoint holds matrices that are quantised already, by rule: of a
// matrix NAME [outputs, inputs] (kernels/weight_source.h)
//
//   int8  NAME           I8   [outputs, inputs]
//         NAME.scales    F32  [outputs, inputs / 64 rounded up]
//   int4  NAME           U8   [outputs, inputs / 2 rounded up]
//         NAME.scales    F16  [outputs, inputs / 32 rounded up]
//         NAME.minimums  F16  likewise
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/weight_source.h"
#include "model/checkpoint.h"

namespace engram {

struct QuantisedTensor {
  std::string name;
  std::string type;  // as safetensors calls it
  std::vector<int64_t> shape;
};
// Those of the matrix `name`: values, scales and, of kInt4, minimums. REQUIRES:
// IsQuantised(shape.format).
std::vector<QuantisedTensor> QuantisedTensors(const std::string& name,
                                              const WeightShape& shape);

// The matrix as `checkpoint` holds it, whose numbers have not been looked at.
// DATA_LOSS: one of its tensors is missing, or has another dtype or shape; the
// message names it.
absl::StatusOr<QuantisedMatrix> FindQuantisedMatrix(
    const Checkpoint& checkpoint, const std::string& name,
    const WeightShape& shape);

// Whether two of one shape and format have the same bytes.
bool SameValues(const QuantisedMatrix& a, const QuantisedMatrix& b);

}  // namespace engram

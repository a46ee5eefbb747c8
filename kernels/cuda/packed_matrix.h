// PackedMatrix: a weight in device memory, in its format, row by row.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/weight_view.h"

namespace engram::cuda {

// Of a weight of that shape, without values.
WeightView LayoutOf(const WeightShape& shape);

class PackedMatrix : public PackedWeight {
 public:
  // What the memory of one has, its padding and scales included.
  static size_t BytesOf(const WeightShape& shape);
  // Memory for a weight of that shape, without values. `stream` must outlive
  // it. Errors: those of Backend::Pack.
  static absl::StatusOr<std::unique_ptr<PackedMatrix>> Make(
      const WeightShape& shape, cudaStream_t stream);
  // Lays `weight`, which has the shape, out in it and copies it by the stream;
  // returns when that is done. Errors likewise.
  absl::Status Fill(const WeightSource& weight);

  // Waits for the stream, which may still read it.
  ~PackedMatrix() override;

  int64_t outputs() const override { return view_.outputs; }
  int64_t inputs() const override { return view_.inputs; }
  WeightFormat format() const override { return view_.format; }
  size_t bytes() const override { return values_->bytes(); }

  const WeightView& view() const { return view_; }

 private:
  PackedMatrix(const WeightView& view, cudaStream_t stream,
               std::unique_ptr<Buffer> values)
      : view_(view), stream_(stream), values_(std::move(values)) {}

  const WeightView view_;
  const cudaStream_t stream_;
  const std::unique_ptr<Buffer> values_;
};

// REQUIRES: packed by this back end.
inline const WeightView& ViewOf(const PackedWeight& weight) {
  return static_cast<const PackedMatrix&>(weight).view();
}

}  // namespace engram::cuda

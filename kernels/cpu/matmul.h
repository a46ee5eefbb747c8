// Matrix products with packed weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// A weight [outputs, inputs] as panels of kPanelWidth outputs: within a panel
// the kPanelWidth values of one input lie together, so that a product reads
// memory strictly forwards and one loaded vector serves several outputs. The
// last panel is filled up with zeros.
//
// The values are in their format, and a product widens them in registers, which
// is exact: it gives the bits that the same values in float32 give. bfloat16
// values of outputs i and i + kPanelWidth / 2 lie side by side, so that one
// loaded vector becomes two by a shift and a mask. Of kInt8 the scales of the
// panel's outputs, one per unit, lie behind its values. Of kInt4 a panel is an
// Int4Group for each group of inputs.
class PackedMatrix : public PackedWeight {
 public:
  static constexpr int64_t kPanelWidth = 32;

  // `panels` holds at least PanelCount() * PanelBytes() and is owned.
  PackedMatrix(int64_t outputs, int64_t inputs, WeightFormat format,
               std::unique_ptr<Buffer> panels);

  int64_t outputs() const override { return outputs_; }
  int64_t inputs() const override { return inputs_; }
  WeightFormat format() const override { return format_; }
  size_t bytes() const override { return panels_->bytes(); }

  static int64_t PanelCount(int64_t outputs) {
    return (outputs + kPanelWidth - 1) / kPanelWidth;
  }
  static int64_t PanelBytes(int64_t inputs, WeightFormat format);

  const std::byte* panel(int64_t index) const {
    return static_cast<const std::byte*>(panels_->data()) +
           index * PanelBytes(inputs_, format_);
  }

  // Lays out panel `index` of `weight`, which has this shape and format.
  // INVALID_ARGUMENT if a value has no number in the format. A last panel's
  // missing outputs stay as they are.
  absl::Status FillPanel(const WeightSource& weight, int64_t index);

  // output [inputs] = the weight's row `row`, for embedding tables.
  void CopyRow(int64_t row, float* output) const;

 private:
  const int64_t outputs_;
  const int64_t inputs_;
  const WeightFormat format_;
  const std::unique_ptr<Buffer> panels_;
};

// kPanelWidth outputs of a group of inputs in kInt4; of inputs that are missing
// the integers are 0.
struct Int4Group {
  static constexpr int64_t kWordInputs = 8;
  static constexpr int64_t kWords = kInt4GroupInputs / kWordInputs;

  uint16_t scales[PackedMatrix::kPanelWidth];  // float16
  uint16_t minimums[PackedMatrix::kPanelWidth];
  // The integers of eight inputs of an output, the first one in the lowest
  // bits.
  uint32_t words[kWords][PackedMatrix::kPanelWidth];
};

// See Backend::MatMul.
void MatMul(ThreadPool& threads, const PackedMatrix& weight, int64_t tokens,
            ConstMatrix x, const MatMulOptions& options, Matrix y);

}  // namespace engram::cpu

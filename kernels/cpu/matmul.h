// Matrix products with packed weights.
#pragma once

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
// float today. Another format brings its own bytes per panel and widens in the
// loads of the product; everything else asks only this class.
class PackedMatrix : public PackedWeight {
 public:
  static constexpr int64_t kPanelWidth = 32;

  // `panels` holds panel_count() * panel_floats() floats and is owned.
  PackedMatrix(int64_t outputs, int64_t inputs, std::unique_ptr<Buffer> panels);

  int64_t outputs() const override { return outputs_; }
  int64_t inputs() const override { return inputs_; }
  size_t bytes() const override { return panels_->bytes(); }

  static int64_t PanelCount(int64_t outputs) {
    return (outputs + kPanelWidth - 1) / kPanelWidth;
  }
  static int64_t PanelFloats(int64_t inputs) { return kPanelWidth * inputs; }

  const float* panel(int64_t index) const {
    return panels_->floats() + index * PanelFloats(inputs_);
  }

  // Lays out panel `index` of `weight`, a tensor [outputs, inputs].
  void FillPanel(const Tensor& weight, int64_t index);

  // output [inputs] = the weight's row `output`, for embedding tables.
  void CopyRow(int64_t row, float* output) const;

 private:
  const int64_t outputs_;
  const int64_t inputs_;
  const std::unique_ptr<Buffer> panels_;
};

// See Backend::MatMul.
void MatMul(ThreadPool& threads, const PackedMatrix& weight, int64_t tokens,
            ConstMatrix x, const MatMulOptions& options, Matrix y);

}  // namespace engram::cpu

// A back end that passes everything on to another: tests derive from it what
// counts, looks at or breaks some of the calls.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/backend.h"

namespace engram {

class ForwardingBackend : public Backend {
 public:
  // `inner` must outlive this.
  explicit ForwardingBackend(Backend* inner) : inner_(*inner) {}

  std::string name() const override { return inner_.name(); }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    return inner_.Allocate(bytes);
  }
  void CopyToHost(void* host, const void* source, size_t bytes) override {
    inner_.CopyToHost(host, source, bytes);
  }
  void CopyFromHost(void* target, const void* host, size_t bytes) override {
    inner_.CopyFromHost(target, host, bytes);
  }
  void Copy(void* target, const void* source, size_t bytes) override {
    inner_.Copy(target, source, bytes);
  }
  void Zero(void* target, size_t bytes) override { inner_.Zero(target, bytes); }
  absl::Status Synchronize() override { return inner_.Synchronize(); }
  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(
      const Tensor& weight, WeightFormat format) override {
    return inner_.Pack(weight, format);
  }

  void Embed(const PackedWeight& table, absl::Span<const int32_t> ids,
             float* residual) override {
    inner_.Embed(table, ids, residual);
  }
  void Norm(const NormWeights& norm, int64_t tokens, int64_t d_model,
            const float* residual, float* normed) override {
    inner_.Norm(norm, tokens, d_model, residual, normed);
  }
  void MatMul(const PackedWeight& weight, int64_t tokens, ConstMatrix x,
              const MatMulOptions& options, Matrix y) override {
    inner_.MatMul(weight, tokens, x, options, y);
  }
  void CausalConv1d(Rows rows,
                    const CausalConv1dArguments& arguments) override {
    inner_.CausalConv1d(rows, arguments);
  }
  void SelectiveScan(Rows rows,
                     const SelectiveScanArguments& arguments) override {
    inner_.SelectiveScan(rows, arguments);
  }
  void SsdScan(Rows rows, const SsdScanArguments& arguments) override {
    inner_.SsdScan(rows, arguments);
  }
  void GatedNorm(const GatedNormArguments& arguments) override {
    inner_.GatedNorm(arguments);
  }
  void ShiftMultiply(Rows rows,
                     const ShiftMultiplyArguments& arguments) override {
    inner_.ShiftMultiply(rows, arguments);
  }
  void DiagonalScan(Rows rows,
                    const DiagonalScanArguments& arguments) override {
    inner_.DiagonalScan(rows, arguments);
  }
  void Attention(Rows rows, const AttentionArguments& arguments) override {
    inner_.Attention(rows, arguments);
  }
  void AddRows(const float* table, absl::Span<const int32_t> indices,
               int64_t width, Matrix target) override {
    inner_.AddRows(table, indices, width, target);
  }
  void Gather(ConstMatrix source, absl::Span<const int32_t> indices,
              int64_t width, Matrix target) override {
    inner_.Gather(source, indices, width, target);
  }
  void AllFinite(ConstMatrix x, int64_t rows, int64_t width,
                 absl::Span<uint8_t> finite) override {
    inner_.AllFinite(x, rows, width, finite);
  }

  void Outcomes(ConstMatrix logits, int64_t ids,
                absl::Span<const OutcomeRequest> requests,
                absl::Span<Outcome> outcomes) override {
    inner_.Outcomes(logits, ids, requests, outcomes);
  }
  absl::Status ReserveOutcomes(int64_t rows, int64_t ids) override {
    return inner_.ReserveOutcomes(rows, ids);
  }

 private:
  Backend& inner_;
};

}  // namespace engram

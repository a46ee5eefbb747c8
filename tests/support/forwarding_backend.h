// A back end that passes everything on to another: tests derive from it what
// counts, looks at or breaks some of the calls.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace engram {

class ForwardingBackend : public Backend {
 public:
  // `inner` must outlive this.
  explicit ForwardingBackend(Backend* inner) : inner_(*inner) {}

  std::string name() const override { return inner_.name(); }
  int64_t ssd_chunk_tokens() const override {
    return inner_.ssd_chunk_tokens();
  }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    return inner_.Allocate(bytes);
  }
  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes) override {
    return inner_.AllocateHost(bytes);
  }
  bool HasFormat(WeightFormat format) const override {
    return inner_.HasFormat(format);
  }
  std::string device_name() const override { return inner_.device_name(); }
  absl::Status ReserveMemory(const MemoryNeed& need) override {
    return inner_.ReserveMemory(need);
  }
  void CloseMemory() override { inner_.CloseMemory(); }
  MemoryUse device_memory() const override { return inner_.device_memory(); }
  std::optional<MemoryUse> pinned_memory() const override {
    return inner_.pinned_memory();
  }
  size_t BufferBytes(size_t bytes) const override {
    return inner_.BufferBytes(bytes);
  }
  size_t PackedBytes(const WeightShape& shape) const override {
    return inner_.PackedBytes(shape);
  }
  size_t PackingBytes(const WeightShape& shape) const override {
    return inner_.PackingBytes(shape);
  }
  MemoryNeed StepsNeed(const LargestStep& largest,
                       absl::Span<const WeightShape> weights) const override {
    return inner_.StepsNeed(largest, weights);
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyToHost(
      void* host, const void* source, size_t bytes) override {
    return inner_.BeginCopyToHost(host, source, bytes);
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyFromHost(
      void* target, const void* host, size_t bytes) override {
    return inner_.BeginCopyFromHost(target, host, bytes);
  }
  absl::Status Copy(void* target, const void* source, size_t bytes) override {
    return inner_.Copy(target, source, bytes);
  }
  absl::Status Zero(void* target, size_t bytes) override {
    return inner_.Zero(target, bytes);
  }
  absl::Status Synchronize() override { return inner_.Synchronize(); }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> RecordEvent() override {
    return inner_.RecordEvent();
  }
  absl::Span<const int64_t> PaddedRows() const override {
    return inner_.PaddedRows();
  }
  Recordings recordings() const override { return inner_.recordings(); }
  std::optional<ProductLibrary> product_library() const override {
    return inner_.product_library();
  }
  bool is_asynchronous() const override { return inner_.is_asynchronous(); }
  absl::Status ReserveSteps(const LargestStep& largest) override {
    return inner_.ReserveSteps(largest);
  }

 protected:
  Backend& inner() { return inner_; }
  // Every operation of a step comes by here, with its arguments bound to it.
  virtual void Issue(const std::function<void()>& operation) { operation(); }

 private:
  absl::StatusOr<std::unique_ptr<PackedWeight>> DoPack(
      const WeightSource& weight) override {
    return inner_.Pack(weight);
  }
  void DoPrepareStep(const StepRows& step) override {
    const auto all = static_cast<int64_t>(step.rows().size());
    const int64_t rows = all - step.padding();
    if (rows == 0 && all > 0) {
      inner_step_ = &inner_.PreparePadding(all, step.has_blocks());
      return;
    }
    std::vector<absl::Span<const int32_t>> blocks;
    for (int64_t i = 0; step.has_blocks() && i < rows; ++i) {
      blocks.push_back(step.blocks(i));
    }
    inner_step_ = &inner_.PrepareStep(
        step.rows().first(rows), blocks,
        step.ids().first(step.ids().empty() ? 0
                                            : step.tokens() - step.padding()),
        step.padding() > 0 ? all : 0);
  }

  void DoEmbed(const StepRows&, const PackedWeight& table,
               float* residual) override {
    Issue([=, this, &table] { inner_.Embed(*inner_step_, table, residual); });
  }
  void DoAddPositions(const StepRows&, const float* table, int64_t width,
                      Matrix target) override {
    Issue(
        [=, this] { inner_.AddPositions(*inner_step_, table, width, target); });
  }
  void DoNorm(const NormWeights& norm, int64_t tokens, int64_t d_model,
              const float* residual, Matrix normed) override {
    Issue([=, this] { inner_.Norm(norm, tokens, d_model, residual, normed); });
  }
  void DoMatMul(const PackedWeight& weight, int64_t tokens, ConstMatrix x,
                const MatMulOptions& options, Matrix y) override {
    Issue([=, this, &weight] { inner_.MatMul(weight, tokens, x, options, y); });
  }
  void DoCausalConv1d(const StepRows&,
                      const CausalConv1dArguments& arguments) override {
    Issue([=, this] { inner_.CausalConv1d(*inner_step_, arguments); });
  }
  void DoSelectiveScan(const StepRows&,
                       const SelectiveScanArguments& arguments) override {
    Issue([=, this] { inner_.SelectiveScan(*inner_step_, arguments); });
  }
  void DoSsdScan(const StepRows&, const SsdScanArguments& arguments) override {
    Issue([=, this] { inner_.SsdScan(*inner_step_, arguments); });
  }
  void DoGatedNorm(const GatedNormArguments& arguments) override {
    Issue([=, this] { inner_.GatedNorm(arguments); });
  }
  void DoShiftMultiply(const StepRows&,
                       const ShiftMultiplyArguments& arguments) override {
    Issue([=, this] { inner_.ShiftMultiply(*inner_step_, arguments); });
  }
  void DoDiagonalScan(const StepRows&,
                      const DiagonalScanArguments& arguments) override {
    Issue([=, this] { inner_.DiagonalScan(*inner_step_, arguments); });
  }
  void DoAttention(const StepRows&,
                   const AttentionArguments& arguments) override {
    Issue([=, this] { inner_.Attention(*inner_step_, arguments); });
  }
  // As one operation each, whatever the other back end makes of it.
  void DoMambaBlock(const StepRows&, const MambaBlockArguments& block,
                    float* residual) override {
    Issue([=, this] { inner_.MambaBlock(*inner_step_, block, residual); });
  }
  void DoMamba2Block(const StepRows&, const Mamba2BlockArguments& block,
                     float* residual) override {
    Issue([=, this] { inner_.Mamba2Block(*inner_step_, block, residual); });
  }
  void DoH3Block(const StepRows&, const H3BlockArguments& block,
                 float* residual) override {
    Issue([=, this] { inner_.H3Block(*inner_step_, block, residual); });
  }
  void DoS4dBlock(const StepRows&, const S4dBlockArguments& block,
                  float* residual) override {
    Issue([=, this] { inner_.S4dBlock(*inner_step_, block, residual); });
  }
  void DoAttentionBlock(const StepRows&, const AttentionBlockArguments& block,
                        float* residual) override {
    Issue([=, this] { inner_.AttentionBlock(*inner_step_, block, residual); });
  }
  void DoMlpBlock(const StepRows&, const MlpBlockArguments& block,
                  float* residual) override {
    Issue([=, this] { inner_.MlpBlock(*inner_step_, block, residual); });
  }
  void DoCopyRows(ConstMatrix source, absl::Span<const int32_t> from,
                  int64_t width, Matrix target,
                  absl::Span<const int32_t> to) override {
    inner_.CopyRows(source, from, width, target, to);
  }
  void DoKeepLastTokens(const StepRows&, ConstMatrix x, int64_t width,
                        LayerShares kept) override {
    Issue([=, this] { inner_.KeepLastTokens(*inner_step_, x, width, kept); });
  }
  void DoFiniteRows(const StepRows&, ConstMatrix x, int64_t width,
                    absl::Span<uint8_t> finite) override {
    inner_.FiniteRows(*inner_step_, x, width, finite);
  }
  void DoOutcomes(ConstMatrix logits, int64_t ids,
                  absl::Span<const OutcomeRequest> requests,
                  absl::Span<Outcome> outcomes) override {
    inner_.Outcomes(logits, ids, requests, outcomes);
  }

  Backend& inner_;
  const StepRows* inner_step_ = nullptr;
};

// One whose other back end also remembers what it is to do again; else each
// call comes by.
class ReplayForwardingBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

 private:
  void DoReplay(uint64_t key, absl::FunctionRef<void()> record) override {
    inner().Replay(key, record);
  }
  void DoReplayToOutcomes(uint64_t key, absl::FunctionRef<void()> record,
                          ConstMatrix logits, int64_t ids,
                          absl::Span<const OutcomeRequest> requests,
                          absl::Span<Outcome> outcomes) override {
    inner().ReplayToOutcomes(key, record, logits, ids, requests, outcomes);
  }
};

}  // namespace engram

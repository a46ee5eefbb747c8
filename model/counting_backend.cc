#include "model/counting_backend.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "kernels/status.h"
#include "kernels/tensor.h"

namespace engram {
namespace {

class CountedBuffer final : public Buffer {
 public:
  CountedBuffer(size_t bytes, size_t counted, CountedMemory* memory)
      : bytes_(bytes), counted_(counted), memory_(*memory) {
    memory_.device = AddSizes(memory_.device, counted_);
    memory_.most = std::max(memory_.most, memory_.device);
  }
  ~CountedBuffer() override { memory_.device -= counted_; }
  void* data() override { return nullptr; }
  const void* data() const override { return nullptr; }
  size_t bytes() const override { return bytes_; }

 private:
  const size_t bytes_;
  const size_t counted_;
  CountedMemory& memory_;
};

class CountedWeight final : public PackedWeight {
 public:
  CountedWeight(const WeightShape& shape, size_t bytes, CountedMemory* memory)
      : shape_(shape), buffer_(bytes, bytes, memory) {}
  int64_t outputs() const override { return shape_.outputs; }
  int64_t inputs() const override { return shape_.inputs; }
  WeightFormat format() const override { return shape_.format; }
  size_t bytes() const override { return buffer_.bytes(); }

 private:
  const WeightShape shape_;
  const CountedBuffer buffer_;
};

class CountingBackend final : public Backend {
 public:
  CountingBackend(const Backend* like, CountedMemory* memory)
      : like_(*like), memory_(*memory) {}

  std::string name() const override { return like_.name(); }
  bool HasFormat(WeightFormat format) const override {
    return like_.HasFormat(format);
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    return std::make_unique<CountedBuffer>(bytes, BufferBytes(bytes), &memory_);
  }
  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t) override {
    Refuse();
  }
  MemoryUse device_memory() const override {
    return {
        .limit = std::nullopt, .taken = memory_.device, .used = memory_.device};
  }
  size_t BufferBytes(size_t bytes) const override {
    return like_.BufferBytes(bytes);
  }
  size_t PackedBytes(const WeightShape& shape) const override {
    return like_.PackedBytes(shape);
  }
  MemoryNeed StepsNeed(const LargestStep& largest,
                       absl::Span<const WeightShape> weights) const override {
    return like_.StepsNeed(largest, weights);
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyToHost(
      void*, const void*, size_t) override {
    Refuse();
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyFromHost(
      void*, const void*, size_t) override {
    return MakeReachedEvent();
  }
  absl::Status Copy(void*, const void*, size_t) override { Refuse(); }
  absl::Status Zero(void*, size_t) override { return absl::OkStatus(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> RecordEvent() override {
    return MakeReachedEvent();
  }
  absl::Status ReserveSteps(const LargestStep& largest) override {
    const MemoryNeed need = StepsNeed(largest, weights_);
    steps_ =
        std::make_unique<CountedBuffer>(need.device, need.device, &memory_);
    memory_.pinned = AddSizes(memory_.pinned, need.pinned);
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<std::unique_ptr<PackedWeight>> DoPack(
      const WeightSource& weight) override {
    const WeightShape shape = weight.shape();
    weights_.push_back(shape);
    auto packed = std::make_unique<CountedWeight>(
        shape, like_.PackedBytes(shape), &memory_);
    memory_.most = std::max(
        memory_.most, AddSizes(memory_.device, like_.PackingBytes(shape)));
    return packed;
  }

  void DoEmbed(const StepRows&, const PackedWeight&, float*) override {
    Refuse();
  }
  void DoAddPositions(const StepRows&, const float*, int64_t, Matrix) override {
    Refuse();
  }
  void DoNorm(const NormWeights&, int64_t, int64_t, const float*,
              Matrix) override {
    Refuse();
  }
  void DoMatMul(const PackedWeight&, int64_t, ConstMatrix, const MatMulOptions&,
                Matrix) override {
    Refuse();
  }
  void DoCausalConv1d(const StepRows&, const CausalConv1dArguments&) override {
    Refuse();
  }
  void DoSelectiveScan(const StepRows&,
                       const SelectiveScanArguments&) override {
    Refuse();
  }
  void DoSsdScan(const StepRows&, const SsdScanArguments&) override {
    Refuse();
  }
  void DoShiftMultiply(const StepRows&,
                       const ShiftMultiplyArguments&) override {
    Refuse();
  }
  void DoDiagonalScan(const StepRows&, const DiagonalScanArguments&) override {
    Refuse();
  }
  void DoAttention(const StepRows&, const AttentionArguments&) override {
    Refuse();
  }
  void DoGatedNorm(const GatedNormArguments&) override { Refuse(); }
  void DoCopyRows(ConstMatrix, absl::Span<const int32_t>, int64_t, Matrix,
                  absl::Span<const int32_t>) override {
    Refuse();
  }
  void DoFiniteRows(const StepRows&, ConstMatrix, int64_t,
                    absl::Span<uint8_t>) override {
    Refuse();
  }
  void DoOutcomes(ConstMatrix, int64_t, absl::Span<const OutcomeRequest>,
                  absl::Span<Outcome>) override {
    Refuse();
  }

  [[noreturn]] static void Refuse() {
    ENGRAM_CHECK(!"nothing is there to compute with");
    std::abort();
  }

  const Backend& like_;
  CountedMemory& memory_;
  std::vector<WeightShape> weights_;
  std::unique_ptr<Buffer> steps_;
};

}  // namespace

std::unique_ptr<Backend> MakeCountingBackend(const Backend* like,
                                             CountedMemory* memory) {
  return std::make_unique<CountingBackend>(like, memory);
}

}  // namespace engram

#include "model/counting_backend.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <string>

#include "kernels/cpu/outcomes.h"
#include "kernels/large_weights.h"
#include "kernels/status.h"
#include "kernels/tensor.h"

namespace engram {
namespace {

constexpr size_t kLargest = std::numeric_limits<size_t>::max();

class CountedBuffer final : public Buffer {
 public:
  explicit CountedBuffer(size_t bytes) : bytes_(bytes) {}
  void* data() override { return nullptr; }
  const void* data() const override { return nullptr; }
  size_t bytes() const override { return bytes_; }

 private:
  const size_t bytes_;
};

class CountedWeight final : public PackedWeight {
 public:
  CountedWeight(const Tensor& weight, WeightFormat format)
      : outputs_(weight.shape[0]), inputs_(weight.shape[1]), format_(format) {}
  int64_t outputs() const override { return outputs_; }
  int64_t inputs() const override { return inputs_; }
  WeightFormat format() const override { return format_; }
  size_t bytes() const override {
    return WeightBytes(format_, outputs_, inputs_);
  }

 private:
  const int64_t outputs_;
  const int64_t inputs_;
  const WeightFormat format_;
};

class CountingBackend final : public Backend {
 public:
  explicit CountingBackend(size_t* bytes) : bytes_(*bytes) {}

  std::string name() const override { return "counting"; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    bytes_ = AddSizes(bytes_, bytes);
    return std::make_unique<CountedBuffer>(bytes);
  }
  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes) override {
    return Allocate(bytes);
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
  absl::Status ReserveBlocks(int64_t tokens, int64_t floats) override {
    ENGRAM_RETURN_IF_ERROR(Backend::ReserveBlocks(tokens, floats));
    // As much as a device's library of products takes, that has all weights.
    bytes_ = AddSizes(bytes_, MultiplySizes(tokens, library_bytes_));
    return absl::OkStatus();
  }
  absl::Status ReserveOutcomes(int64_t rows, int64_t ids) override {
    // As much as the CPU takes.
    bytes_ = AddSizes(bytes_, cpu::OutcomeScratchBytes(rows, ids));
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<std::unique_ptr<PackedWeight>> DoPack(
      const Tensor& weight, WeightFormat format) override {
    auto packed = std::make_unique<CountedWeight>(weight, format);
    bytes_ = AddSizes(bytes_, packed->bytes());
    library_bytes_ = std::max(
        library_bytes_,
        LibraryProductBytes(format, packed->outputs(), packed->inputs()));
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

  size_t& bytes_;
  int64_t library_bytes_ = 0;  // of a token, LibraryProductBytes
};

}  // namespace

std::unique_ptr<Backend> MakeCountingBackend(size_t* bytes) {
  return std::make_unique<CountingBackend>(bytes);
}

size_t AddSizes(size_t a, size_t b) {
  size_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? kLargest : sum;
}

size_t MultiplySizes(size_t a, size_t b) {
  size_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? kLargest : product;
}

}  // namespace engram

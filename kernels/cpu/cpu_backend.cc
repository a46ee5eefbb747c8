#include "kernels/cpu/cpu_backend.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/causal_conv1d.h"
#include "kernels/cpu/diagonal_scan.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/norm.h"
#include "kernels/cpu/outcomes.h"
#include "kernels/cpu/selective_scan.h"
#include "kernels/cpu/shift_multiply.h"
#include "kernels/cpu/ssd_scan.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/status.h"

namespace engram {
namespace {

using cpu::PackedMatrix;
using cpu::ScopedFlushDenormals;

constexpr size_t kAlignment = 64;
// Weights are read from end to end in every step: in large pages that takes far
// fewer address translations.
constexpr size_t kLargePage = size_t{2} << 20;

// Of all back ends.
std::atomic<size_t> used_bytes = 0;

class HostBuffer : public Buffer {
 public:
  // Takes ownership of `data`, which free() must accept.
  HostBuffer(void* data, size_t bytes) : data_(data), bytes_(bytes) {
    used_bytes += bytes;
  }
  ~HostBuffer() override {
    std::free(data_);
    used_bytes -= bytes_;
  }

  void* data() override { return data_; }
  const void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  void* const data_;
  const size_t bytes_;
};

size_t PhysicalMemoryBytes() {
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

const PackedMatrix& Packed(const PackedWeight& weight) {
  return static_cast<const PackedMatrix&>(weight);
}

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(std::shared_ptr<cpu::ThreadPool> pool)
      : pool_(std::move(pool)), threads_(*pool_) {}

  std::string name() const override { return "cpu"; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    // An overcommitting kernel grants any size and kills the process when the
    // memory is touched, so what cannot fit is refused here.
    const size_t physical = PhysicalMemoryBytes();
    const size_t alignment = bytes >= kLargePage ? kLargePage : kAlignment;
    void* data = nullptr;
    if (bytes > physical ||
        posix_memalign(&data, alignment, std::max<size_t>(bytes, 1)) != 0) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "cannot allocate ", bytes, " bytes; this machine has ", physical));
    }
    // Only advice: without large pages everything works the same.
    if (alignment == kLargePage) madvise(data, bytes, MADV_HUGEPAGE);
    std::memset(data, 0, bytes);
    return std::make_unique<HostBuffer>(data, bytes);
  }

  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes) override {
    return AllocateOrdinaryMemory(bytes);
  }

  MemoryUse device_memory() const override {
    const size_t bytes = used_bytes;
    return {.limit = std::nullopt, .taken = bytes, .used = bytes};
  }
  size_t BufferBytes(size_t bytes) const override { return bytes; }
  size_t PackedBytes(const WeightShape& shape) const override {
    return PackedMatrix::PanelCount(shape.outputs) *
           PackedMatrix::PanelBytes(shape.inputs, shape.format);
  }
  MemoryNeed StepsNeed(const LargestStep& largest,
                       absl::Span<const WeightShape>) const override {
    return {.device = largest.scratch_bytes() +
                      cpu::OutcomeScratchBytes(largest.outcomes, largest.ids)};
  }

  // There is no queue: what was begun is done.
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyToHost(
      void* host, const void* source, size_t bytes) override {
    ENGRAM_RETURN_IF_ERROR(Copy(host, source, bytes));
    return MakeReachedEvent();
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyFromHost(
      void* target, const void* host, size_t bytes) override {
    ENGRAM_RETURN_IF_ERROR(Copy(target, host, bytes));
    return MakeReachedEvent();
  }
  absl::Status Copy(void* target, const void* source, size_t bytes) override {
    if (bytes > 0) std::memcpy(target, source, bytes);
    return absl::OkStatus();
  }
  absl::Status Zero(void* target, size_t bytes) override {
    if (bytes > 0) std::memset(target, 0, bytes);
    return absl::OkStatus();
  }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> RecordEvent() override {
    return MakeReachedEvent();
  }

 private:
  absl::StatusOr<std::unique_ptr<PackedWeight>> DoPack(
      const WeightSource& weight) override {
    const auto [outputs, inputs, format] = weight.shape();
    const int64_t panels = PackedMatrix::PanelCount(outputs);
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer,
                            Allocate(PackedBytes(weight.shape())));
    auto packed = std::make_unique<PackedMatrix>(outputs, inputs, format,
                                                 std::move(buffer));
    std::vector<absl::Status> filled(panels);
    // At least as long as to copy it.
    threads_.ParallelFor(panels, outputs * inputs, [&](int64_t panel) {
      filled[panel] = packed->FillPanel(weight, panel);
    });
    for (const absl::Status& status : filled) ENGRAM_RETURN_IF_ERROR(status);
    return packed;
  }

  absl::Status DoReserveSteps(const LargestStep& largest) override {
    const size_t bytes =
        cpu::OutcomeScratchBytes(largest.outcomes, largest.ids);
    if (bytes > (outcome_scratch_ == nullptr ? 0 : outcome_scratch_->bytes())) {
      ENGRAM_ASSIGN_OR_RETURN(outcome_scratch_, Allocate(bytes));
    }
    return absl::OkStatus();
  }

  void DoEmbed(const StepRows& step, const PackedWeight& table,
               float* residual) override {
    cpu::Embed(threads_, step, Packed(table), residual);
  }

  void DoAddPositions(const StepRows& step, const float* table, int64_t width,
                      Matrix target) override {
    const ScopedFlushDenormals flush;
    cpu::AddPositions(step, table, width, target);
  }

  void DoNorm(const NormWeights& norm, int64_t tokens, int64_t d_model,
              const float* residual, Matrix normed) override {
    const ScopedFlushDenormals flush;
    cpu::Norm(threads_, norm, tokens, d_model, residual, normed);
  }

  void DoMatMul(const PackedWeight& weight, int64_t tokens, ConstMatrix x,
                const MatMulOptions& options, Matrix y) override {
    const ScopedFlushDenormals flush;
    cpu::MatMul(threads_, Packed(weight), tokens, x, options, y);
  }

  void DoCausalConv1d(const StepRows& step,
                      const CausalConv1dArguments& arguments) override {
    const ScopedFlushDenormals flush;
    cpu::CausalConv1d(threads_, step, arguments);
  }

  void DoSelectiveScan(const StepRows& step,
                       const SelectiveScanArguments& arguments) override {
    const ScopedFlushDenormals flush;
    cpu::SelectiveScan(threads_, step, arguments);
  }

  void DoSsdScan(const StepRows& step,
                 const SsdScanArguments& arguments) override {
    const ScopedFlushDenormals flush;
    cpu::SsdScan(threads_, step, arguments);
  }

  void DoGatedNorm(const GatedNormArguments& arguments) override {
    const ScopedFlushDenormals flush;
    cpu::GatedNorm(threads_, arguments);
  }

  void DoShiftMultiply(const StepRows& step,
                       const ShiftMultiplyArguments& arguments) override {
    const ScopedFlushDenormals flush;
    cpu::ShiftMultiply(threads_, step, arguments);
  }

  void DoDiagonalScan(const StepRows& step,
                      const DiagonalScanArguments& arguments) override {
    const ScopedFlushDenormals flush;
    cpu::DiagonalScan(threads_, step, arguments);
  }

  void DoAttention(const StepRows& step,
                   const AttentionArguments& arguments) override {
    const ScopedFlushDenormals flush;
    cpu::Attention(threads_, step, arguments);
  }

  void DoCopyRows(ConstMatrix source, absl::Span<const int32_t> from,
                  int64_t width, Matrix target,
                  absl::Span<const int32_t> to) override {
    cpu::CopyRows(source, from, width, target, to);
  }

  void DoFiniteRows(const StepRows& step, ConstMatrix x, int64_t width,
                    absl::Span<uint8_t> finite) override {
    cpu::FiniteRows(step, x, width, finite);
  }

  void DoOutcomes(ConstMatrix logits, int64_t ids,
                  absl::Span<const OutcomeRequest> requests,
                  absl::Span<Outcome> outcomes) override {
    const auto rows = static_cast<int64_t>(requests.size());
    ENGRAM_CHECK(outcome_scratch_ != nullptr &&
                 outcome_scratch_->bytes() >=
                     cpu::OutcomeScratchBytes(rows, ids));
    const ScopedFlushDenormals flush;
    cpu::Outcomes(threads_, logits, ids, requests, outcome_scratch_->floats(),
                  outcomes);
  }

  const std::shared_ptr<cpu::ThreadPool> pool_;
  cpu::ThreadPool& threads_;  // *pool_
  std::unique_ptr<Buffer> outcome_scratch_;
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(std::shared_ptr<cpu::ThreadPool> pool) {
  return std::make_unique<CpuBackend>(std::move(pool));
}

}  // namespace engram

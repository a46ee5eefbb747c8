#include "kernels/cpu/cpu_backend.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
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

class HostBuffer : public Buffer {
 public:
  // Takes ownership of `data`, which free() must accept.
  HostBuffer(void* data, size_t bytes) : data_(data), bytes_(bytes) {}
  ~HostBuffer() override { std::free(data_); }

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

void CheckRows(Rows rows) {
  for (const Row& row : rows) {
    ENGRAM_CHECK(row.slot >= 0 && row.offset >= 0 && row.tokens >= 1);
  }
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

  void CopyToHost(void* host, const void* source, size_t bytes) override {
    Copy(host, source, bytes);
  }
  void CopyFromHost(void* target, const void* host, size_t bytes) override {
    Copy(target, host, bytes);
  }
  void Copy(void* target, const void* source, size_t bytes) override {
    if (bytes > 0) std::memcpy(target, source, bytes);
  }
  void Zero(void* target, size_t bytes) override {
    if (bytes > 0) std::memset(target, 0, bytes);
  }
  absl::Status Synchronize() override { return absl::OkStatus(); }

  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(
      const Tensor& weight, WeightFormat format) override {
    if (weight.shape.size() != 2 || weight.shape[0] < 1 ||
        weight.shape[1] < 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a weight is a matrix [outputs, inputs], this tensor is ",
          ShapeToString(weight.shape)));
    }
    const int64_t outputs = weight.shape[0];
    const int64_t inputs = weight.shape[1];
    const int64_t panels = PackedMatrix::PanelCount(outputs);
    ENGRAM_ASSIGN_OR_RETURN(
        std::unique_ptr<Buffer> buffer,
        Allocate(panels * PackedMatrix::PanelBytes(inputs, format)));
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

  void Embed(const PackedWeight& table, absl::Span<const int32_t> ids,
             float* residual) override {
    cpu::Embed(threads_, Packed(table), ids, residual);
  }

  void Norm(const NormWeights& norm, int64_t tokens, int64_t d_model,
            const float* residual, float* normed) override {
    ENGRAM_CHECK(tokens >= 0 && d_model >= 1);
    ENGRAM_CHECK(norm.kind == NormKind::kRms || norm.bias != nullptr);
    const ScopedFlushDenormals flush;
    cpu::Norm(threads_, norm, tokens, d_model, residual, normed);
  }

  void MatMul(const PackedWeight& weight, int64_t tokens, ConstMatrix x,
              const MatMulOptions& options, Matrix y) override {
    ENGRAM_CHECK(tokens >= 0);
    const ScopedFlushDenormals flush;
    cpu::MatMul(threads_, Packed(weight), tokens, x, options, y);
  }

  void CausalConv1d(Rows rows,
                    const CausalConv1dArguments& arguments) override {
    ENGRAM_CHECK(arguments.channels >= 1 && arguments.d_conv >= 1);
    ENGRAM_CHECK(arguments.x.data != arguments.y.data);
    ENGRAM_CHECK(arguments.activation == Activation::kSilu ||
                 arguments.activation == Activation::kNone);
    CheckRows(rows);
    const ScopedFlushDenormals flush;
    cpu::CausalConv1d(threads_, rows, arguments);
  }

  void SelectiveScan(Rows rows,
                     const SelectiveScanArguments& arguments) override {
    ENGRAM_CHECK(arguments.d_inner >= 1 && arguments.d_state >= 1);
    CheckRows(rows);
    const ScopedFlushDenormals flush;
    cpu::SelectiveScan(threads_, rows, arguments);
  }

  void SsdScan(Rows rows, const SsdScanArguments& arguments) override {
    ENGRAM_CHECK(arguments.groups >= 1 && arguments.heads >= 1 &&
                 arguments.heads % arguments.groups == 0);
    ENGRAM_CHECK(arguments.head_dim >= 1 && arguments.d_state >= 1);
    CheckRows(rows);
    const ScopedFlushDenormals flush;
    cpu::SsdScan(threads_, rows, arguments);
  }

  void GatedNorm(const GatedNormArguments& arguments) override {
    ENGRAM_CHECK(arguments.tokens >= 0 && arguments.d_inner >= 1);
    ENGRAM_CHECK(arguments.groups >= 1 &&
                 arguments.d_inner % arguments.groups == 0);
    const ScopedFlushDenormals flush;
    cpu::GatedNorm(threads_, arguments);
  }

  void ShiftMultiply(Rows rows,
                     const ShiftMultiplyArguments& arguments) override {
    ENGRAM_CHECK(arguments.channels >= 1 && arguments.taps >= 1);
    ENGRAM_CHECK(arguments.p.data != arguments.k.data);
    CheckRows(rows);
    const ScopedFlushDenormals flush;
    cpu::ShiftMultiply(threads_, rows, arguments);
  }

  void DiagonalScan(Rows rows,
                    const DiagonalScanArguments& arguments) override {
    ENGRAM_CHECK(arguments.channels >= 1 && arguments.pairs >= 1);
    CheckRows(rows);
    const ScopedFlushDenormals flush;
    cpu::DiagonalScan(threads_, rows, arguments);
  }

  void Attention(Rows rows, const AttentionArguments& arguments) override {
    ENGRAM_CHECK(arguments.heads >= 1 && arguments.head_dim >= 1);
    ENGRAM_CHECK(arguments.kv_heads >= 1 &&
                 arguments.heads % arguments.kv_heads == 0);
    ENGRAM_CHECK(arguments.rotary_dim >= 0 && arguments.rotary_dim % 2 == 0 &&
                 arguments.rotary_dim <= arguments.head_dim);
    ENGRAM_CHECK(arguments.histories.size() == rows.size());
    CheckRows(rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      const RowHistory& history = arguments.histories[i];
      ENGRAM_CHECK(history.position >= 0 &&
                   static_cast<int64_t>(history.blocks.size()) *
                           kKeyValueBlockTokens >=
                       history.position + rows[i].tokens);
    }
    const ScopedFlushDenormals flush;
    cpu::Attention(threads_, rows, arguments);
  }

  void AddRows(const float* table, absl::Span<const int32_t> indices,
               int64_t width, Matrix target) override {
    const ScopedFlushDenormals flush;
    cpu::AddRows(table, indices, width, target);
  }

  void Gather(ConstMatrix source, absl::Span<const int32_t> indices,
              int64_t width, Matrix target) override {
    cpu::Gather(source, indices, width, target);
  }

  void AllFinite(ConstMatrix x, int64_t rows, int64_t width,
                 absl::Span<uint8_t> finite) override {
    cpu::AllFinite(x, rows, width, finite);
  }

  void Outcomes(ConstMatrix logits, int64_t ids,
                absl::Span<const OutcomeRequest> requests,
                absl::Span<Outcome> outcomes) override {
    ENGRAM_CHECK(ids >= 1 && outcomes.size() == requests.size());
    const auto rows = static_cast<int64_t>(requests.size());
    ENGRAM_CHECK(outcome_scratch_ != nullptr &&
                 outcome_scratch_->bytes() >=
                     cpu::OutcomeScratchBytes(rows, ids));
    for (const OutcomeRequest& request : requests) {
      ENGRAM_CHECK(request.scored < ids);
    }
    const ScopedFlushDenormals flush;
    cpu::Outcomes(threads_, logits, ids, requests, outcome_scratch_->floats(),
                  outcomes);
  }

  absl::Status ReserveOutcomes(int64_t rows, int64_t ids) override {
    const size_t bytes = cpu::OutcomeScratchBytes(rows, ids);
    if (outcome_scratch_ != nullptr && outcome_scratch_->bytes() >= bytes) {
      return absl::OkStatus();
    }
    ENGRAM_ASSIGN_OR_RETURN(outcome_scratch_, Allocate(bytes));
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<cpu::ThreadPool> pool_;
  cpu::ThreadPool& threads_;  // *pool_
  std::unique_ptr<Buffer> outcome_scratch_;
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(std::shared_ptr<cpu::ThreadPool> pool) {
  return std::make_unique<CpuBackend>(std::move(pool));
}

}  // namespace engram

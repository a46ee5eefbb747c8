#include "kernels/cuda/cuda_backend.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/block_scratch.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_block.h"
#include "kernels/cuda/causal_conv1d.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_queue.h"
#include "kernels/cuda/device_status.h"
#include "kernels/cuda/diagonal_scan.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/finite_rows.h"
#include "kernels/cuda/graphs.h"
#include "kernels/cuda/h3_block.h"
#include "kernels/cuda/large_products.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mamba2_block.h"
#include "kernels/cuda/mamba_block.h"
#include "kernels/cuda/mlp_block.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/outcomes.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/row_buckets.h"
#include "kernels/cuda/row_chunks.h"
#include "kernels/cuda/selective_scan.h"
#include "kernels/cuda/shift_multiply.h"
#include "kernels/cuda/ssd_chunks.h"
#include "kernels/cuda/ssd_scan.h"
#include "kernels/cuda/step_parts.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/cuda/step_upload.h"
#include "kernels/status.h"

namespace engram {
namespace {

using cuda::DeviceQueue;

// Memory that goes once the device is done with it.
class AwaitedBuffer final : public Buffer {
 public:
  AwaitedBuffer(std::shared_ptr<DeviceQueue> queue,
                std::unique_ptr<Buffer> buffer)
      : queue_(std::move(queue)), buffer_(std::move(buffer)) {}
  ~AwaitedBuffer() override { queue_->WaitForWork(); }

  void* data() override { return buffer_->data(); }
  const void* data() const override { return buffer_->data(); }
  size_t bytes() const override { return buffer_->bytes(); }

 private:
  const std::shared_ptr<DeviceQueue> queue_;
  const std::unique_ptr<Buffer> buffer_;
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(const DeviceOptions& options, std::string device_name,
              std::shared_ptr<DeviceQueue> queue,
              cuda::LargeProducts large_products,
              std::shared_ptr<cuda::MemoryArena> arena,
              std::shared_ptr<cuda::MemoryArena> pinned)
      : deterministic_(options.deterministic),
        device_name_(std::move(device_name)),
        owned_queue_(std::move(queue)),
        queue_(*owned_queue_),
        arena_(std::move(arena)),
        pinned_(std::move(pinned)),
        large_products_(std::move(large_products)),
        tables_(&upload_),
        outcomes_(&upload_) {}
  ~CudaBackend() override { queue_.WaitForWork(); }

  std::string name() const override { return "cuda"; }
  std::string device_name() const override { return device_name_; }
  bool HasFormat(WeightFormat format) const override {
    return format != WeightFormat::kInt4;
  }
  int64_t ssd_chunk_tokens() const override {
    return deterministic_ ? 1 : cuda::kChunkTokens;
  }

  // --- Memory.

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    queue_.BeCurrent();
    ENGRAM_RETURN_IF_ERROR(queue_.failure());
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer,
                            cuda::AllocateDeviceMemory(bytes));
    ENGRAM_RETURN_IF_ERROR(Zero(buffer->data(), bytes));
    return std::make_unique<AwaitedBuffer>(owned_queue_, std::move(buffer));
  }
  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes) override {
    queue_.BeCurrent();
    return cuda::AllocatePinnedMemory(bytes);
  }

  absl::Status ReserveMemory(const MemoryNeed& need) override {
    queue_.BeCurrent();
    if (need.device > 0) {
      ENGRAM_RETURN_IF_ERROR(arena_->Reserve(need.device));
    }
    return need.pinned > 0 ? pinned_->Reserve(need.pinned) : absl::OkStatus();
  }
  void CloseMemory() override {
    arena_->Close();
    pinned_->Close();
  }
  MemoryUse device_memory() const override { return arena_->use(); }
  std::optional<MemoryUse> pinned_memory() const override {
    return pinned_->use();
  }

  size_t BufferBytes(size_t bytes) const override {
    return cuda::DevicePieceBytes(bytes);
  }
  size_t PackedBytes(const WeightShape& shape) const override {
    return cuda::DevicePieceBytes(cuda::PackedMatrix::BytesOf(shape));
  }
  size_t PackingBytes(const WeightShape& shape) const override {
    const size_t bytes = large_products_.LearningBytes(shape);
    return bytes == 0 ? 0 : cuda::DevicePieceBytes(bytes);
  }
  MemoryNeed StepsNeed(const LargestStep& largest,
                       absl::Span<const WeightShape> weights) const override {
    MemoryNeed sum;
    for (const MemoryNeed& need :
         {cuda::StepUpload::NeedOf(cuda::StepTables::BytesFor(largest),
                                   cuda::OutcomeKernels::RequestBytes(
                                       largest.outcomes, largest.ids)),
          cuda::OutcomeKernels::NeedOf(largest.outcomes, largest.ids),
          cuda::FiniteRows::NeedOf(largest.rows)}) {
      sum.device += need.device;
      sum.pinned += need.pinned;
    }
    for (const size_t bytes :
         {largest.scratch_bytes(),
          large_products_.RoomFor(largest.tokens, weights)}) {
      if (bytes > 0) sum.device += cuda::DevicePieceBytes(bytes);
    }
    return sum;
  }

  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyToHost(
      void* host, const void* source, size_t bytes) override {
    return queue_.BeginCopy(host, source, bytes, cudaMemcpyDeviceToHost);
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyFromHost(
      void* target, const void* host, size_t bytes) override {
    return queue_.BeginCopy(target, host, bytes, cudaMemcpyHostToDevice);
  }
  absl::Status Copy(void* target, const void* source, size_t bytes) override {
    if (bytes > 0) {
      Note(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice,
                           stream()),
           "copying within the device");
    }
    return queue_.failure();
  }
  absl::Status Zero(void* target, size_t bytes) override {
    if (bytes > 0) {
      Note(cudaMemsetAsync(target, 0, bytes, stream()), "clearing memory");
    }
    return queue_.failure();
  }
  absl::Status Synchronize() override { return queue_.Synchronize(); }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> RecordEvent() override {
    return queue_.RecordEvent();
  }

  bool is_asynchronous() const override { return true; }
  absl::Span<const int64_t> PaddedRows() const override {
    return cuda::kRowBuckets;
  }
  Recordings recordings() const override {
    return {graphs_.count(), graphs_.bytes()};
  }

  std::optional<ProductLibrary> product_library() const override {
    return large_products_.Tell();
  }

 private:
  // For what is to see the step's rows, if it is not recorded with them.
  cudaStream_t stream() {
    UploadRows();
    return queue_.operations();
  }
  void Note(cudaError_t error, absl::string_view what) {
    queue_.Note(error, what);
  }

  absl::StatusOr<std::unique_ptr<PackedWeight>> DoPack(
      const WeightSource& weight) override {
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<cuda::PackedMatrix> packed,
                            cuda::PackedMatrix::Make(weight.shape(), stream()));
    // In its memory, before that has its values.
    ENGRAM_RETURN_IF_ERROR(large_products_.Learn(packed->view(), stream()));
    ENGRAM_RETURN_IF_ERROR(packed->Fill(weight));
    return packed;
  }

  // What is recorded has the addresses of before.
  absl::Status DoReserveSteps(const LargestStep& largest) override {
    const size_t room_bytes = large_products_.RoomFor(largest.tokens);
    if (largest == reserved() && room_bytes <= large_products_.room()) {
      return absl::OkStatus();
    }
    ENGRAM_RETURN_IF_ERROR(queue_.Synchronize());
    graphs_.Forget();
    bool moved = false;
    ENGRAM_RETURN_IF_ERROR(upload_.Reserve(
        cuda::StepTables::BytesFor(largest),
        cuda::OutcomeKernels::RequestBytes(largest.outcomes, largest.ids),
        queue_.operations(), &moved));
    ENGRAM_RETURN_IF_ERROR(outcomes_.Reserve(largest.outcomes, largest.ids));
    ENGRAM_RETURN_IF_ERROR(finite_rows_.Reserve(largest.rows));
    if (room_bytes <= large_products_.room()) return absl::OkStatus();
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> room, Allocate(room_bytes));
    large_products_.SetRoom(std::move(room));
    return absl::OkStatus();
  }

  void DoPrepareStep(const StepRows& step) override {
    bool moved = false;
    const absl::Status status =
        tables_.LayOut(step, queue_.operations(), &moved);
    if (!status.ok()) queue_.Fail(status);
    if (moved) graphs_.Forget();
    is_laid_out_ = status.ok();
    cuda::AllowOverlap(tables_.table().longest_row <= 1);
    any_follows_ = std::any_of(step.rows().begin(), step.rows().end(),
                               [](const Row& row) { return row.follows >= 0; });
  }

  // The rows alone, without what they are asked for.
  void UploadRows() {
    if (!std::exchange(is_laid_out_, false)) return;
    Upload(tables_.end());
    if (any_follows_) Follow();
  }
  void Upload(size_t bytes) {
    const absl::Status status = upload_.Copy(0, bytes, queue_.operations());
    if (!status.ok()) queue_.Fail(status);
  }
  void Follow() {
    Note(cuda::FollowAnswers(queue_.operations(), tables_.following_rows(),
                             outcomes_.answers()),
         "taking the tokens that were drawn");
  }

  // The tables of other steps are elsewhere each time.
  void DoReplay(uint64_t key, absl::FunctionRef<void()> record) override {
    UploadRows();
    if (!tables_.is_in_place()) return record();
    graphs_.Run(&queue_, key, record);
  }

  // One copy there, one graph, one copy back.
  void DoReplayToOutcomes(uint64_t key, absl::FunctionRef<void()> record,
                          ConstMatrix logits, int64_t ids,
                          absl::Span<const OutcomeRequest> requests,
                          absl::Span<Outcome> outcomes) override {
    const int64_t padding =
        tables_.table().row_count - static_cast<int64_t>(requests.size());
    if (!is_laid_out_ || !tables_.is_in_place() ||
        !outcomes_.FitTogether(requests, padding, ids)) {
      record();
      return DoOutcomes(logits, ids, requests, outcomes);
    }
    is_laid_out_ = false;
    const size_t end = outcomes_.LayOut(&queue_, requests, padding, ids,
                                        tables_.requests_at(), tables_.end());
    if (end == 0) return;
    Upload(end);
    graphs_.Run(&queue_, key, [&] {
      Follow();
      record();
      Note(outcomes_.Find(queue_.operations(), tables_.table(),
                          tables_.requests_at(), logits, ids),
           "finding outcomes");
    });
    outcomes_.BringBack(&queue_, ids, outcomes);
  }

  // --- Operations. Their StepRows are those of the last PrepareStep, whose
  // table is on the device.

  void DoEmbed(const StepRows&, const PackedWeight& table,
               float* residual) override {
    Note(cuda::Embed(stream(), tables_.table(), cuda::ViewOf(table), residual),
         "Embed");
  }

  void DoAddPositions(const StepRows&, const float* table, int64_t width,
                      Matrix target) override {
    Note(cuda::AddPositions(stream(), tables_.table(), table, width, target),
         "AddPositions");
  }

  void DoNorm(const NormWeights& norm, int64_t tokens, int64_t d_model,
              const float* residual, Matrix normed) override {
    Note(cuda::Norm(stream(), norm, tokens, d_model, residual, normed), "Norm");
  }

  void DoMatMul(const PackedWeight& weight, int64_t tokens, ConstMatrix x,
                const MatMulOptions& options, Matrix y) override {
    const cuda::ProductArguments product =
        cuda::ArgumentsOf(cuda::ViewOf(weight), tokens, x, options, y);
    Note(large_products_.Begin(stream(), product), "MatMul");
  }

  void DoCausalConv1d(const StepRows&,
                      const CausalConv1dArguments& arguments) override {
    Note(cuda::CausalConv1d(stream(), tables_.table(), arguments),
         "CausalConv1d");
  }

  void DoSelectiveScan(const StepRows&,
                       const SelectiveScanArguments& arguments) override {
    Note(cuda::SelectiveScan(stream(), tables_.table(), arguments),
         "SelectiveScan");
  }

  void DoSsdScan(const StepRows& step,
                 const SsdScanArguments& arguments) override {
    const auto scan = [&](cuda::RowPart part) {
      Note(cuda::SsdScan(stream(), tables_.table(), arguments, part),
           "SsdScan");
    };
    const cuda::StepParts parts = cuda::PartsOf(step.rows());
    if (deterministic_ || !parts.chunks || !cuda::CanScanChunks(arguments)) {
      return scan(cuda::RowPart::kAll);
    }
    ENGRAM_CHECK(arguments.room != nullptr);
    if (parts.heads) scan(cuda::RowPart::kHead);
    Note(cuda::SsdChunks(stream(), tables_.table(), arguments), "SsdScan");
    if (parts.tails) scan(cuda::RowPart::kTail);
  }

  void DoGatedNorm(const GatedNormArguments& arguments) override {
    Note(cuda::GatedNorm(stream(), arguments), "GatedNorm");
  }

  void DoShiftMultiply(const StepRows&,
                       const ShiftMultiplyArguments& arguments) override {
    Note(cuda::ShiftMultiply(stream(), tables_.table(), arguments),
         "ShiftMultiply");
  }

  void DoDiagonalScan(const StepRows&,
                      const DiagonalScanArguments& arguments) override {
    Note(cuda::DiagonalScan(stream(), tables_.table(), arguments),
         "DiagonalScan");
  }

  void DoAttention(const StepRows&,
                   const AttentionArguments& arguments) override {
    Note(cuda::Attention(stream(), tables_.table(), arguments), "Attention");
  }

  // --- Blocks. Where rows have one token each, as in decode, operations that
  // can share a kernel do; others are composed.

  void DoMambaBlock(const StepRows& step, const MambaBlockArguments& block,
                    float* residual) override {
    if (!tables_.table().HasOneTokenARow()) {
      return Backend::DoMambaBlock(step, block, residual);
    }
    Note(cuda::MambaBlock(stream(), large_products_, tables_.table(), block,
                          ScratchOf(step, block), residual),
         "MambaBlock");
  }

  void DoMamba2Block(const StepRows& step, const Mamba2BlockArguments& block,
                     float* residual) override {
    if (!tables_.table().HasOneTokenARow()) {
      return Backend::DoMamba2Block(step, block, residual);
    }
    Note(cuda::Mamba2Block(stream(), large_products_, tables_.table(), block,
                           ScratchOf(step, block), residual),
         "Mamba2Block");
  }

  void DoH3Block(const StepRows& step, const H3BlockArguments& block,
                 float* residual) override {
    if (!tables_.table().HasOneTokenARow()) {
      return Backend::DoH3Block(step, block, residual);
    }
    Note(cuda::H3Block(stream(), large_products_, tables_.table(), block,
                       ScratchOf(step, block), residual),
         "H3Block");
  }

  void DoAttentionBlock(const StepRows& step,
                        const AttentionBlockArguments& block,
                        float* residual) override {
    if (!tables_.table().HasOneTokenARow()) {
      return Backend::DoAttentionBlock(step, block, residual);
    }
    Note(cuda::AttentionBlock(stream(), large_products_, tables_.table(), block,
                              ScratchOf(step, block), residual),
         "AttentionBlock");
  }

  void DoMlpBlock(const StepRows& step, const MlpBlockArguments& block,
                  float* residual) override {
    if (!tables_.table().HasOneTokenARow()) {
      return Backend::DoMlpBlock(step, block, residual);
    }
    Note(cuda::MlpBlock(stream(), large_products_, tables_.table(), block,
                        ScratchOf(step, block), residual),
         "MlpBlock");
  }

  // --- Rows and their outcomes.

  void DoCopyRows(ConstMatrix source, absl::Span<const int32_t> from,
                  int64_t width, Matrix target,
                  absl::Span<const int32_t> to) override {
    Note(cuda::CopyRows(stream(), source, from.data(), width, target, to.data(),
                        static_cast<int64_t>(from.size())),
         "CopyRows");
  }

  void DoKeepLastTokens(const StepRows&, ConstMatrix x, int64_t width,
                        LayerShares kept) override {
    Note(cuda::KeepLastTokens(stream(), tables_.table(), x, width, kept),
         "KeepLastTokens");
  }

  void DoFiniteRows(const StepRows&, ConstMatrix x, int64_t width,
                    absl::Span<uint8_t> finite) override {
    UploadRows();
    finite_rows_.Begin(&queue_, tables_.table(), x, width, finite);
  }

  void DoOutcomes(ConstMatrix logits, int64_t ids,
                  absl::Span<const OutcomeRequest> requests,
                  absl::Span<Outcome> outcomes) override {
    UploadRows();
    outcomes_.Begin(&queue_, tables_.table(), tables_.end(), logits, ids,
                    requests, outcomes);
  }

  template <class BlockArguments>
  BlockScratch ScratchOf(const StepRows& step, const BlockArguments& block) {
    return {Scratch(step, block.ScratchFloats()), step.tokens()};
  }

  const bool deterministic_;
  const std::string device_name_;
  const std::shared_ptr<DeviceQueue> owned_queue_;  // and of Allocate's buffers
  DeviceQueue& queue_;                              // *owned_queue_
  const std::shared_ptr<cuda::MemoryArena> arena_;
  const std::shared_ptr<cuda::MemoryArena> pinned_;
  cuda::LargeProducts large_products_;
  cuda::StepUpload upload_;
  cuda::StepTables tables_;
  bool is_laid_out_ = false;  // the step's rows are, and not uploaded
  bool any_follows_ = false;  // of them
  cuda::FiniteRows finite_rows_;
  cuda::OutcomeKernels outcomes_;
  cuda::Graphs graphs_;
};

}  // namespace

absl::StatusOr<int> CountCudaDevices() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) return cuda::NoDevice(error);
  if (devices == 0) return cuda::NoDevice(cudaErrorNoDevice);
  return devices;
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(
    const DeviceOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const int devices, CountCudaDevices());
  if (options.index < 0 || options.index >= devices) {
    return absl::InvalidArgumentError(absl::StrCat(
        "CUDA: there is no device ", options.index, ", devices are 0 to ",
        devices - 1, "; look at nvidia-smi and CUDA_VISIBLE_DEVICES"));
  }
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<DeviceQueue> queue,
                          DeviceQueue::Make(options.index));
  // It answers: what a process may have lost before, it has again.
  cuda::SetDeviceIsLost(false);
  // Before it is seen how much memory is free.
  cuda::LargeProducts large_products(options.index);
  ENGRAM_ASSIGN_OR_RETURN(
      std::shared_ptr<cuda::MemoryArena> arena,
      cuda::DeviceArena(options.index, static_cast<size_t>(options.memory)));
  ENGRAM_ASSIGN_OR_RETURN(
      std::shared_ptr<cuda::MemoryArena> pinned,
      cuda::PinnedArena(static_cast<size_t>(options.pinned_memory)));
  cudaDeviceProp properties;
  ENGRAM_RETURN_IF_ERROR(
      cuda::DeviceStatus(cudaGetDeviceProperties(&properties, options.index),
                         "asking for a device's name"));
  return std::make_unique<CudaBackend>(
      options, properties.name, std::move(queue), std::move(large_products),
      std::move(arena), std::move(pinned));
}

}  // namespace engram

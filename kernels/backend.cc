#include "kernels/backend.h"

#include <algorithm>
#include <cstddef>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/control_group.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/status.h"

namespace engram {

// --- What holds for every back end.

namespace {

bool AreFloat32(std::initializer_list<ConstMatrix> matrices) {
  return std::all_of(matrices.begin(), matrices.end(),
                     [](const ConstMatrix& matrix) {
                       return matrix.type == DataType::kFloat32;
                     });
}

}  // namespace

bool Backend::ComputesAll(std::initializer_list<ConstMatrix> matrices) const {
  return std::all_of(
      matrices.begin(), matrices.end(),
      [this](const ConstMatrix& matrix) { return Computes(matrix.type); });
}

std::string ProductLibrary::Summary() const {
  if (name.empty()) return absl::StrCat("none: ", absence);
  const auto found =
      std::count_if(choices.begin(), choices.end(),
                    [](const Choice& choice) { return choice.found; });
  return absl::StrCat(name, ", pinned for ", found, " of ", choices.size(),
                      " products");
}

absl::Status Backend::CopyToHost(void* host, const void* source, size_t bytes) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceEvent> done,
                          BeginCopyToHost(host, source, bytes));
  return done->Wait();
}

absl::Status Backend::CopyFromHost(void* target, const void* host,
                                   size_t bytes) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceEvent> done,
                          BeginCopyFromHost(target, host, bytes));
  return done->Wait();
}

absl::StatusOr<std::unique_ptr<PackedWeight>> Backend::Pack(
    const Tensor& weight, WeightFormat format) {
  if (weight.shape.size() != 2 || weight.shape[0] < 1 || weight.shape[1] < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a weight is a matrix [outputs, inputs], this tensor is ",
                     ShapeToString(weight.shape)));
  }
  return Pack(WeightSource(weight, format));
}

absl::StatusOr<std::unique_ptr<PackedWeight>> Backend::Pack(
    const WeightSource& weight) {
  ENGRAM_RETURN_IF_ERROR(CheckFormat(weight.format()));
  return DoPack(weight);
}

absl::Status Backend::CheckFormat(WeightFormat format) const {
  if (HasFormat(format)) return absl::OkStatus();
  std::vector<std::string> others;
  for (const WeightFormat other : kWeightFormats) {
    if (HasFormat(other)) others.push_back(WeightFormatName(other));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "the back end ", name(), " has no weights in ", WeightFormatName(format),
      ", only in ", absl::StrJoin(others, ", "),
      "; ask for one of these (--weights) or for another back end "
      "(--backend)"));
}

const StepRows& Backend::PrepareStep(
    absl::Span<const Row> rows,
    absl::Span<const absl::Span<const int32_t>> blocks,
    absl::Span<const int32_t> ids, int64_t most_rows) {
  bool any_follows = false;
  for (const Row& row : rows) {
    if (row.follows < 0) continue;
    any_follows = true;
    ENGRAM_CHECK(row.tokens == 1 &&
                 row.follows < static_cast<int>(last_outcomes_.size()));
  }
  if (any_follows && !is_asynchronous()) {
    AssignFollowing(rows, blocks, ids);
  } else {
    step_.Assign(rows, blocks, ids);
  }
  step_.Pad(PaddingFor(step_, most_rows));
  DoPrepareStep(step_);
  return step_;
}

int64_t Backend::PaddingFor(const StepRows& step, int64_t most_rows) const {
  const auto rows = static_cast<int64_t>(step.rows().size());
  if (rows == 0 || rows >= most_rows) return 0;
  const bool one_each =
      std::all_of(step.rows().begin(), step.rows().end(),
                  [](const Row& row) { return row.tokens == 1; });
  const absl::Span<const int64_t> padded = PaddedRows();
  const auto next = std::lower_bound(padded.begin(), padded.end(), rows);
  if (!one_each || next == padded.end()) return 0;
  return std::min(*next, most_rows) - rows;
}

const StepRows& Backend::PreparePadding(int64_t rows, bool has_blocks) {
  step_.AssignPadding(rows, has_blocks);
  DoPrepareStep(step_);
  return step_;
}

void Backend::AssignFollowing(
    absl::Span<const Row> rows,
    absl::Span<const absl::Span<const int32_t>> blocks,
    absl::Span<const int32_t> ids) {
  std::vector<Row> told(rows.begin(), rows.end());
  std::vector<int32_t> told_ids;
  size_t next = 0;  // of ids
  for (Row& row : told) {
    const absl::Span<const int32_t> own = ids.subspan(next, row.tokens);
    next += row.tokens;
    if (row.follows < 0) {
      told_ids.insert(told_ids.end(), own.begin(), own.end());
      continue;
    }
    const Outcome& drawn = last_outcomes_[row.follows];
    row.follows = -1;
    row.tokens = drawn.stops || drawn.token < 0 ? 0 : 1;
    if (row.tokens > 0) told_ids.push_back(drawn.token);
  }
  step_.Assign(told, blocks, told_ids);
}

void Backend::Replay(uint64_t key, absl::FunctionRef<void()> record) {
  DoReplay(key, record);
}

void Backend::ReplayToOutcomes(uint64_t key, absl::FunctionRef<void()> record,
                               ConstMatrix logits, int64_t ids,
                               absl::Span<const OutcomeRequest> requests,
                               absl::Span<Outcome> outcomes) {
  CheckOutcomes(logits, ids, requests, outcomes);
  ENGRAM_CHECK(static_cast<int64_t>(requests.size()) + step_.padding() ==
               static_cast<int64_t>(step_.rows().size()));
  DoReplayToOutcomes(key, record, logits, ids, requests, outcomes);
  last_outcomes_ = outcomes;
}

void Backend::Embed(const StepRows& step, const PackedWeight& table,
                    float* residual) {
  ENGRAM_CHECK(static_cast<int64_t>(step.ids().size()) == step.tokens());
  for (int32_t id : step.ids()) {
    ENGRAM_CHECK(id >= 0 && id < table.outputs());
  }
  DoEmbed(step, table, residual);
}

void Backend::AddPositions(const StepRows& step, const float* table,
                           int64_t width, Matrix target) {
  ENGRAM_CHECK(width >= 1 && target.stride >= width);
  ENGRAM_CHECK(AreFloat32({target}));
  DoAddPositions(step, table, width, target);
}

void Backend::Norm(const NormWeights& norm, int64_t tokens, int64_t d_model,
                   const float* residual, Matrix normed) {
  ENGRAM_CHECK(tokens >= 0 && d_model >= 1 && normed.stride >= d_model);
  ENGRAM_CHECK(ComputesAll({normed}));
  ENGRAM_CHECK(norm.weight != nullptr);
  ENGRAM_CHECK(norm.kind == NormKind::kRms || norm.bias != nullptr);
  DoNorm(norm, tokens, d_model, residual, normed);
}

void Backend::MatMul(const PackedWeight& weight, int64_t tokens, ConstMatrix x,
                     const MatMulOptions& options, Matrix y) {
  ENGRAM_CHECK(tokens >= 0 && x.stride >= weight.inputs() &&
               y.stride >= weight.outputs());
  ENGRAM_CHECK(ComputesAll({x, y}));
  ENGRAM_CHECK(!options.accumulate || options.activation == Activation::kNone);
  DoMatMul(weight, tokens, x, options, y);
}

void Backend::CausalConv1d(const StepRows& step,
                           const CausalConv1dArguments& arguments) {
  const int64_t channels = arguments.channels;
  ENGRAM_CHECK(channels >= 1 && arguments.d_conv >= 1);
  ENGRAM_CHECK(arguments.x.stride >= channels &&
               arguments.y.stride >= channels);
  ENGRAM_CHECK(arguments.x.data != arguments.y.data);
  ENGRAM_CHECK(ComputesAll({arguments.x, arguments.y}));
  ENGRAM_CHECK(arguments.activation == Activation::kSilu ||
               arguments.activation == Activation::kNone);
  ENGRAM_CHECK(arguments.conv_state.stride >=
               (arguments.d_conv - 1) * channels);
  DoCausalConv1d(step, arguments);
}

void Backend::SelectiveScan(const StepRows& step,
                            const SelectiveScanArguments& arguments) {
  const int64_t d_inner = arguments.d_inner;
  const int64_t d_state = arguments.d_state;
  ENGRAM_CHECK(d_inner >= 1 && d_state >= 1);
  ENGRAM_CHECK(arguments.x.stride >= d_inner &&
               arguments.dt.stride >= d_inner &&
               arguments.z.stride >= d_inner && arguments.y.stride >= d_inner);
  ENGRAM_CHECK(arguments.b.stride >= d_state && arguments.c.stride >= d_state);
  ENGRAM_CHECK(ComputesAll({arguments.x, arguments.z, arguments.y}));
  ENGRAM_CHECK(AreFloat32({arguments.dt, arguments.b, arguments.c}));
  ENGRAM_CHECK(arguments.ssm_state.stride >= d_state * d_inner);
  DoSelectiveScan(step, arguments);
}

void Backend::SsdScan(const StepRows& step, const SsdScanArguments& arguments) {
  ENGRAM_CHECK(arguments.groups >= 1 && arguments.heads >= 1 &&
               arguments.heads % arguments.groups == 0);
  ENGRAM_CHECK(arguments.head_dim >= 1 && arguments.d_state >= 1);
  const int64_t d_inner = arguments.heads * arguments.head_dim;
  const int64_t group_states = arguments.groups * arguments.d_state;
  ENGRAM_CHECK(arguments.x.stride >= d_inner && arguments.y.stride >= d_inner);
  ENGRAM_CHECK(arguments.dt.stride >= arguments.heads);
  ENGRAM_CHECK(arguments.b.stride >= group_states &&
               arguments.c.stride >= group_states);
  ENGRAM_CHECK(ComputesAll({arguments.x, arguments.b, arguments.c}));
  ENGRAM_CHECK(AreFloat32({arguments.dt, arguments.y}));
  ENGRAM_CHECK(arguments.ssm_state.stride >= d_inner * arguments.d_state);
  DoSsdScan(step, arguments);
}

void Backend::GatedNorm(const GatedNormArguments& arguments) {
  const int64_t d_inner = arguments.d_inner;
  ENGRAM_CHECK(arguments.tokens >= 0 && d_inner >= 1);
  ENGRAM_CHECK(arguments.groups >= 1 && d_inner % arguments.groups == 0);
  ENGRAM_CHECK(arguments.y.stride >= d_inner && arguments.z.stride >= d_inner &&
               arguments.normed.stride >= d_inner);
  ENGRAM_CHECK(ComputesAll({arguments.z, arguments.normed}));
  ENGRAM_CHECK(AreFloat32({arguments.y}));
  DoGatedNorm(arguments);
}

void Backend::ShiftMultiply(const StepRows& step,
                            const ShiftMultiplyArguments& arguments) {
  const int64_t channels = arguments.channels;
  ENGRAM_CHECK(channels >= 1 && arguments.taps >= 1);
  ENGRAM_CHECK(arguments.k.stride >= channels &&
               arguments.v.stride >= channels &&
               arguments.p.stride >= channels);
  ENGRAM_CHECK(arguments.p.data != arguments.k.data);
  ENGRAM_CHECK(ComputesAll({arguments.k, arguments.v}));
  ENGRAM_CHECK(AreFloat32({arguments.p}));
  ENGRAM_CHECK(arguments.shift_state.stride >= (arguments.taps - 1) * channels);
  DoShiftMultiply(step, arguments);
}

void Backend::DiagonalScan(const StepRows& step,
                           const DiagonalScanArguments& arguments) {
  const int64_t channels = arguments.channels;
  ENGRAM_CHECK(channels >= 1 && arguments.pairs >= 1);
  ENGRAM_CHECK(arguments.p.stride >= channels &&
               arguments.y.stride >= channels);
  ENGRAM_CHECK(arguments.gate.data == nullptr ||
               arguments.gate.stride >= channels);
  ENGRAM_CHECK(ComputesAll({arguments.gate, arguments.y}));
  ENGRAM_CHECK(AreFloat32({arguments.p}));
  ENGRAM_CHECK(arguments.diagonal_state.stride >=
               2 * arguments.pairs * channels);
  DoDiagonalScan(step, arguments);
}

void Backend::Attention(const StepRows& step,
                        const AttentionArguments& arguments) {
  ENGRAM_CHECK(arguments.heads >= 1 && arguments.head_dim >= 1);
  ENGRAM_CHECK(arguments.kv_heads >= 1 &&
               arguments.heads % arguments.kv_heads == 0);
  ENGRAM_CHECK(arguments.rotary_dim >= 0 && arguments.rotary_dim % 2 == 0 &&
               arguments.rotary_dim <= arguments.head_dim);
  ENGRAM_CHECK(step.has_blocks() || step.rows().empty());
  const int64_t kv_width = arguments.kv_heads * arguments.head_dim;
  const int64_t width = arguments.heads * arguments.head_dim;
  ENGRAM_CHECK(arguments.q.stride >= width && arguments.y.stride >= width &&
               arguments.k.stride >= kv_width &&
               arguments.v.stride >= kv_width);
  ENGRAM_CHECK(
      ComputesAll({arguments.q, arguments.k, arguments.v, arguments.y}));
  ENGRAM_CHECK(arguments.blocks.stride >= 2 * kv_width * kKeyValueBlockTokens);
  DoAttention(step, arguments);
}

void Backend::CopyRows(ConstMatrix source, absl::Span<const int32_t> from,
                       int64_t width, Matrix target,
                       absl::Span<const int32_t> to) {
  ENGRAM_CHECK(from.size() == to.size());
  ENGRAM_CHECK(source.stride >= width && target.stride >= width);
  ENGRAM_CHECK(ComputesAll({source}) && source.type == target.type);
  DoCopyRows(source, from, width, target, to);
}

void Backend::KeepLastTokens(const StepRows& step, ConstMatrix x, int64_t width,
                             LayerShares kept) {
  ENGRAM_CHECK(x.stride >= width && kept.stride >= width && AreFloat32({x}));
  DoKeepLastTokens(step, x, width, kept);
}

void Backend::DoKeepLastTokens(const StepRows& step, ConstMatrix x,
                               int64_t width, LayerShares kept) {
  std::vector<int32_t> tokens, slots, unmoved_from, unmoved_to;
  for (const Row& row : step.rows()) {
    if (row.tokens > 0) {
      tokens.push_back(row.offset + row.tokens - 1);
      slots.push_back(row.slot_out);
    } else if (row.slot_in != row.slot_out) {
      unmoved_from.push_back(row.slot_in);
      unmoved_to.push_back(row.slot_out);
    }
  }
  const Matrix of_slots = {kept.data, kept.stride};
  DoCopyRows(x, tokens, width, of_slots, slots);
  DoCopyRows(of_slots, unmoved_from, width, of_slots, unmoved_to);
}

void Backend::FiniteRows(const StepRows& step, ConstMatrix x, int64_t width,
                         absl::Span<uint8_t> finite) {
  ENGRAM_CHECK(width >= 1 && x.stride >= width && ComputesAll({x}));
  ENGRAM_CHECK(finite.size() == step.rows().size());
  DoFiniteRows(step, x, width, finite);
}

void Backend::CheckOutcomes(ConstMatrix logits, int64_t ids,
                            absl::Span<const OutcomeRequest> requests,
                            absl::Span<Outcome> outcomes) const {
  ENGRAM_CHECK(ids >= 1 && logits.stride >= ids && AreFloat32({logits}));
  ENGRAM_CHECK(outcomes.size() == requests.size());
  for (const OutcomeRequest& request : requests) {
    ENGRAM_CHECK(request.scored < ids);
  }
}

void Backend::Outcomes(ConstMatrix logits, int64_t ids,
                       absl::Span<const OutcomeRequest> requests,
                       absl::Span<Outcome> outcomes) {
  CheckOutcomes(logits, ids, requests, outcomes);
  DoOutcomes(logits, ids, requests, outcomes);
  last_outcomes_ = outcomes;
}

namespace {

class ReachedEvent final : public DeviceEvent {
 public:
  bool Reached() override { return true; }
  absl::Status Wait() override { return absl::OkStatus(); }
};

class OrdinaryMemory final : public Buffer {
 public:
  OrdinaryMemory(std::unique_ptr<std::byte[]> data, size_t bytes)
      : data_(std::move(data)), bytes_(bytes) {}
  void* data() override { return data_.get(); }
  const void* data() const override { return data_.get(); }
  size_t bytes() const override { return bytes_; }

 private:
  const std::unique_ptr<std::byte[]> data_;
  const size_t bytes_;
};

}  // namespace

std::unique_ptr<DeviceEvent> MakeReachedEvent() {
  return std::make_unique<ReachedEvent>();
}

absl::StatusOr<std::unique_ptr<Buffer>> AllocateOrdinaryMemory(size_t bytes) {
  std::unique_ptr<std::byte[]> data(new (std::nothrow) std::byte[bytes]);
  if (data == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", bytes, " bytes of host memory"));
  }
  return std::make_unique<OrdinaryMemory>(std::move(data), bytes);
}

absl::StatusOr<std::shared_ptr<cpu::ThreadPool>> MakeThreadPool(int threads) {
  constexpr int kThreadsMax = 1024;
  if (threads < 0 || threads > kThreadsMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "threads is ", threads, ", must be in [0, ", kThreadsMax, "]"));
  }
  if (threads == 0) threads = std::min(UsableProcessors(), kThreadsMax);
  return std::make_shared<cpu::ThreadPool>(threads);
}

namespace {

#if defined(ENGRAM_HAS_CUDA)
absl::StatusOr<int> CountDevicesIfBuilt() { return CountCudaDevices(); }

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackendIfBuilt(
    const DeviceOptions& options) {
  return MakeCudaBackend(options);
}
#else
absl::StatusOr<int> CountDevicesIfBuilt() {
  return absl::FailedPreconditionError(
      "this build has no CUDA back end; use --backend=cpu");
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackendIfBuilt(
    const DeviceOptions&) {
  return CountDevicesIfBuilt().status();
}
#endif

}  // namespace

std::optional<BackendKind> FindBackendKind(absl::string_view name) {
  if (name == "auto") return BackendKind::kAuto;
  if (name == "cpu") return BackendKind::kCpu;
  if (name == "cuda") return BackendKind::kCuda;
  return std::nullopt;
}

absl::StatusOr<int> CountDevices(BackendKind kind) {
  if (kind == BackendKind::kCpu) return 1;
  const absl::StatusOr<int> count = CountDevicesIfBuilt();
  const bool takes_cpu =
      kind == BackendKind::kAuto && absl::IsFailedPrecondition(count.status());
  return takes_cpu ? 1 : count;
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(
    const BackendOptions& options) {
  if (options.kind == BackendKind::kCuda) {
    return MakeCudaBackendIfBuilt(options.device);
  }
#if defined(ENGRAM_HAS_CUDA)
  if (options.kind == BackendKind::kAuto) {
    absl::StatusOr<std::unique_ptr<Backend>> cuda =
        MakeCudaBackend(options.device);
    // A device that is there and fails is not passed over.
    if (!absl::IsFailedPrecondition(cuda.status())) return cuda;
    if (options.on_no_device) options.on_no_device(cuda.status());
  }
#endif
  std::shared_ptr<cpu::ThreadPool> pool = options.pool;
  if (pool == nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(pool, MakeThreadPool(options.threads));
  }
  return MakeCpuBackend(std::move(pool));
}

}  // namespace engram

// Backend: the operations that models are written in, with their shapes and
// mathematics; kernels/operations.h has their arguments, kernels/blocks.h those
// of whole blocks. One implementation per kind of device; models and server
// know only these files.
//
// Memory. Activations, states and packed weights live in memory of the back
// end (Buffer); on a CPU that is host memory. All of it is taken when a model
// is loaded, none during a step; how much is known before (BufferBytes,
// PackedBytes, StepsNeed).
//
// Rows. A step runs a ragged batch. PrepareStep() lays its rows out where the
// operations find them: their tokens, positions and the slots of their states.
// A row of one token (decode) and a row of many (prefill) take the same path
// and give the same bits.
//
// Checks. Shapes are checked here, once and for every back end: each operation
// is a method of this class, and what a back end implements is the private
// virtual method behind it.
//
// Batch invariance. Every output element of every operation depends only on
// its own row's inputs and is computed in one fixed order of operations,
// whatever the other rows are, however a row is cut into steps and however
// many threads run. SsdScan alone may ask for cuts in certain places, see
// ssd_chunk_tokens().
//
// Rounding and order of summation belong to an operation of a back end and its
// weights, never to the number of rows or to what runs it, so that a test can
// compute them. Activations and states are float32: an element is rounded once,
// where its operation stores it, and in between only as its back end says.
// CUDA's orders are in kernels/cuda/README.md; these are the CPU's
// (tests/kernels/summation_test.cc):
//   MatMul       one accumulator from zero, over k in ascending order, each
//                step one fused multiply-add with the weight as float32 (of
//                kInt8 the integer times its scale, rounded, of kInt4 plus
//                its minimum); then the bias is added, then the activation
//                applied, or the sum added to y
//   Norm         sums of 16 partial sums, element i in sum i mod 16 in
//                ascending order, which are then added as a tree: the upper
//                half to the lower, until one is left; squares by fused
//                multiply-add
//   convolution  from the bias, by fused multiply-adds from the oldest input
//   and shift    to the newest (the shift from zero)
//   scans        step by step in time; sums over the states of a channel in
//                ascending order by fused multiply-adds
//   Attention    blocks from position 0 on; scores over head_dim in ascending
//                order, values over the tokens of a block in ascending order
//   blocks       as the operations that they are made of (kernels/blocks.h)
// A processor without fused multiply-add rounds their products as well.
//
// Threads. Engine thread only: one caller at a time. Operations, Copy and Zero
// are asynchronous on a device with a queue; what comes later sees what they
// did. Operations have no failure that a caller could handle: wrong shapes are
// bugs (ENGRAM_CHECK), device faults are reported by the next Synchronize() or
// copy. A device that failed once is not to be used again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/blocks.h"
#include "kernels/memory.h"
#include "kernels/operations.h"
#include "kernels/outcomes.h"
#include "kernels/step_rows.h"
#include "kernels/tensor.h"
#include "kernels/weight_source.h"

namespace engram {

// Memory of a back end, or of the host; freed with the object.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual void* data() = 0;
  virtual const void* data() const = 0;
  virtual size_t bytes() const = 0;

  float* floats() { return static_cast<float*>(data()); }
  const float* floats() const { return static_cast<const float*>(data()); }
};

// A library of a device's maker that computes products of many tokens with
// large weights where it gives the back end's own bits, found out by trial when
// weights are packed.
struct ProductLibrary {
  std::string name;     // with its version; empty: there is none
  std::string absence;  // why
  // For products of `tokens` and more, up to the next of these of the shape.
  struct Choice {
    int64_t outputs = 0;
    int64_t inputs = 0;
    WeightFormat format = WeightFormat::kFloat32;
    int64_t tokens = 0;
    bool accumulates = false;  // MatMulOptions
    int tried = 0;             // algorithms of the library
    bool found = false;        // one of them
  };
  std::vector<Choice> choices;

  // "cuBLASLt 13.1.0, pinned for 14 of 16 products", or "none: " and why.
  std::string Summary() const;
};

// A point in a back end's queue of work.
class DeviceEvent {
 public:
  virtual ~DeviceEvent() = default;
  // Whether all that was begun before it is done. Does not wait.
  virtual bool Reached() = 0;
  // Waits for it; INTERNAL if the device failed.
  virtual absl::Status Wait() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;  // "cpu", "cuda"
  // What its maker calls the device, "NVIDIA H100 80GB HBM3"; empty if nobody
  // tells.
  virtual std::string device_name() const { return ""; }

  // SsdScan's cuts between rows that change no bit are those at multiples of so
  // many tokens from the sequence's begin; at others the same is so within
  // rounding. 1: all of them.
  virtual int64_t ssd_chunk_tokens() const { return 1; }

  // --- Memory. All pointers below are of this back end unless "host" is said.

  // 64-byte aligned, zeroed. RESOURCE_EXHAUSTED with the bytes asked for.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) = 0;
  // Host memory that a device copies from and to at full speed and beside its
  // other work. Not zeroed, nor touched. RESOURCE_EXHAUSTED likewise.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(
      size_t bytes) = 0;

  // Takes so much of its device's memory, and of page-locked memory, at once,
  // from which all that takes memory is served later; without a device nothing.
  // RESOURCE_EXHAUSTED with the bytes asked for and those left.
  virtual absl::Status ReserveMemory(const MemoryNeed&) {
    return absl::OkStatus();
  }
  // Nothing more is taken from now on, neither of its device nor page-locked,
  // by any back end that shares it, but by ReserveMemory(): what has no room in
  // what is taken is refused with RESOURCE_EXHAUSTED.
  virtual void CloseMemory() {}
  // Of all back ends of the process on its device. A CPU's has no limit, and
  // what is taken is what is used. Thread-safe; so is pinned_memory().
  virtual MemoryUse device_memory() const = 0;
  // Page-locked, of all back ends of the process; nothing where AllocateHost()
  // gives ordinary memory.
  virtual std::optional<MemoryUse> pinned_memory() const { return {}; }

  // What is used more by a buffer of so many bytes.
  virtual size_t BufferBytes(size_t bytes) const = 0;
  // By what Pack() makes of such a weight, and beside that while it does.
  virtual size_t PackedBytes(const WeightShape& shape) const = 0;
  virtual size_t PackingBytes(const WeightShape&) const { return 0; }
  // By ReserveSteps() for such steps, if the weights have been packed and
  // nothing was reserved before.
  virtual MemoryNeed StepsNeed(const LargestStep& largest,
                               absl::Span<const WeightShape> weights) const = 0;

  // Begin a copy, behind all operations and all copies that were begun before
  // it, which is done when the event is reached. Until then neither side may
  // change, nor may what is written be read but by later copies. The host's
  // memory is to be of AllocateHost; with other memory the copy may be done at
  // once. INTERNAL if the device failed.
  virtual absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyToHost(
      void* host, const void* source, size_t bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyFromHost(
      void* target, const void* host, size_t bytes) = 0;
  // The same until they are done.
  absl::Status CopyToHost(void* host, const void* source, size_t bytes);
  absl::Status CopyFromHost(void* target, const void* host, size_t bytes);
  // Within the back end's memory. INTERNAL if the device failed.
  virtual absl::Status Copy(void* target, const void* source, size_t bytes) = 0;
  virtual absl::Status Zero(void* target, size_t bytes) = 0;
  // Waits for everything above and below; INTERNAL if the device failed.
  virtual absl::Status Synchronize() = 0;
  // Where the queue stands now. INTERNAL likewise.
  virtual absl::StatusOr<std::unique_ptr<DeviceEvent>> RecordEvent() = 0;
  // Whether operations go on after their calls have returned: only then is it
  // worth while to begin a step before the one before it is finished.
  virtual bool is_asynchronous() const { return false; }

  // Lays out `weight` [outputs, inputs] (host memory) for MatMul, its values
  // rounded to the nearest of `format` (ties to even) unless they have it
  // already. INVALID_ARGUMENT: no matrix, or a value that the format has no
  // finite number for. FAILED_PRECONDITION: as CheckFormat().
  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(const Tensor& weight,
                                                     WeightFormat format);
  // The same of what has its format already, or is to get it.
  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(
      const WeightSource& weight);

  // Whether weights can be packed in this format.
  virtual bool HasFormat(WeightFormat) const { return true; }
  // FAILED_PRECONDITION names those that there are, if this is none of them.
  absl::Status CheckFormat(WeightFormat format) const;

  // What there is for the weights packed so far; nothing where none is looked
  // for.
  virtual std::optional<ProductLibrary> product_library() const { return {}; }

  // --- Steps.

  // Takes all that steps need beside the caller's buffers, so that none up to
  // these limits takes memory; more than once is the most of each. To be called
  // when weights are packed, before the first block and the first outcomes;
  // rows beyond the limits take memory when they come. RESOURCE_EXHAUSTED with
  // the bytes asked for, and as if it had not been called, but that memory may
  // have been taken. REQUIRES: nothing is begun that is not finished.
  virtual absl::Status ReserveSteps(const LargestStep& largest);

  // The rows of the next step, for the operations below. Arguments as for
  // StepRows::Assign, host memory, copied; the id of a row that follows means
  // nothing. What is returned belongs to the back end, lies at the same address
  // for every step and holds until the next call. Rows that follow have the
  // tokens there that they came to have, unless the back end is asynchronous:
  // then its operations find out. REQUIRES of these: the outcomes of the last
  // call of Outcomes() are still where they were put.
  // `most_rows` is what the caller has room for: a step whose rows have a token
  // each may be padded up to that (StepRows::padding), if it is not more.
  const StepRows& PrepareStep(
      absl::Span<const Row> rows,
      absl::Span<const absl::Span<const int32_t>> blocks = {},
      absl::Span<const int32_t> ids = {}, int64_t most_rows = 0);
  // Numbers of rows, ascending: steps of a token a row are padded to the next
  // of them, or to `most_rows` if that is less. Above the last one, or with
  // none, steps stay as they are.
  virtual absl::Span<const int64_t> PaddedRows() const { return {}; }
  // A step of nothing but padding, for what is to be done once for each number
  // of rows. `has_blocks`: it is of a model with attention.
  const StepRows& PreparePadding(int64_t rows, bool has_blocks);

  // Runs `record`, which may call operations of this back end and nothing else,
  // with arguments that depend on `key` alone (StepRows are at one address). A
  // device may remember what it was made to do and do that again for the same
  // key without calling `record`.
  void Replay(uint64_t key, absl::FunctionRef<void()> record);
  // The same, and behind it Outcomes(logits, ids, requests, outcomes), of which
  // only the requests and where their outcomes go may be others for the same
  // key: one for each row of the step but its padding, each of which has a row
  // of logits too. REQUIRES: as Outcomes(); PrepareStep was the last call; the
  // key is none of Replay()'s.
  void ReplayToOutcomes(uint64_t key, absl::FunctionRef<void()> record,
                        ConstMatrix logits, int64_t ids,
                        absl::Span<const OutcomeRequest> requests,
                        absl::Span<Outcome> outcomes);
  // What is remembered.
  struct Recordings {
    int64_t count = 0;
    size_t bytes = 0;  // of the device, as far as it tells
  };
  virtual Recordings recordings() const { return {}; }

  // --- Operations.

  // Whether activations of this type are taken and left where it is free:
  // normed vectors; x and y of products and convolutions; x, z and y of
  // SelectiveScan; x, b and c of SsdScan; z and normed of GatedNorm; k and v of
  // ShiftMultiply; gate and y of DiagonalScan; q, k, v and y of Attention;
  // what CopyRows and FiniteRows go through. A value is rounded to its type
  // once, where it is stored. All else is float32 for every back end:
  // residuals; dt, b and c of SelectiveScan; dt and y of SsdScan; y of
  // GatedNorm; p; states; logits.
  virtual bool Computes(DataType activations) const {
    return activations == DataType::kFloat32;
  }

  // residual[t] = table[ids[t]] of the step's tokens, widened to float.
  //   table     [vocab, d_model] in, packed (any format); ids in [0, vocab)
  //   residual  [tokens, d_model] out
  void Embed(const StepRows& step, const PackedWeight& table, float* residual);

  // target[t] += table[position of token t], rows of `width` floats.
  //   table  [positions, width] in; positions of the step's tokens below that
  void AddPositions(const StepRows& step, const float* table, int64_t width,
                    Matrix target);

  // normed = Norm(residual), float32 statistics. RmsNorm: x / sqrt(mean(x²) +
  // eps) * weight. LayerNorm subtracts the mean first and adds the bias. The
  // sum before it is MatMul's `accumulate`, which spares a pass over memory.
  //   residual  [tokens, d_model] in
  //   normed    [tokens, d_model] out
  void Norm(const NormWeights& norm, int64_t tokens, int64_t d_model,
            const float* residual, Matrix normed);

  // y = activation(x Wᵀ + bias), or added to y.
  //   x  [tokens, inputs] in
  //   y  [tokens, outputs] out
  void MatMul(const PackedWeight& weight, int64_t tokens, ConstMatrix x,
              const MatMulOptions& options, Matrix y);

  // Depthwise causal convolution over each row's tokens; those before the row
  // come from slot_in, its last inputs are left in slot_out:
  //   y_t = activation(bias + Σ_j weight[j] x_{t-(d_conv-1)+j})
  // Source: Mamba, arXiv 2312.00752, section 3.4.
  void CausalConv1d(const StepRows& step,
                    const CausalConv1dArguments& arguments);

  // Mamba's selective scan with its gate, per channel e and state n:
  //   Δ = softplus(dt + dt_bias)
  //   h = exp(Δ a[n]) h + Δ b[n] x
  //   y = (Σ_n c[n] h[n] + d x) silu(z)
  // softplus(v) = log1p(exp(v)), v itself above 20.
  // Source: Mamba, arXiv 2312.00752, Algorithm 2.
  void SelectiveScan(const StepRows& step,
                     const SelectiveScanArguments& arguments);

  // Mamba-2's scan, per head with its d_state x head_dim states h, where b and
  // c are those of the head's group, head / (heads / groups), and p is one of
  // its head_dim channels:
  //   Δ = clamp(softplus(dt + dt_bias), dt_min, dt_max)
  //   h[n, p] = exp(Δ a) h[n, p] + b[n] (Δ x[p])
  //   y[p] = Σ_n c[n] h[n, p] + d x[p]
  // Source: Mamba-2, arXiv 2405.21060, section 7.
  void SsdScan(const StepRows& step, const SsdScanArguments& arguments);

  // v = y ⊙ silu(z), then RmsNorm of each of `groups` equal parts of v:
  // normed = v / sqrt(mean(v²) + epsilon) * weight. Without weights, v itself.
  // Source: Mamba-2, arXiv 2405.21060, section 7.
  void GatedNorm(const GatedNormArguments& arguments);

  // H3's shift SSM, which is a causal filter per channel, and what it is
  // multiplied by; tokens before the row come from slot_in, its last inputs are
  // left in slot_out:
  //   p_t = (Σ_j filter[j] k_{t-(taps-1)+j}) v_t
  // summed from the oldest token to the newest.
  // Source: H3, arXiv 2212.14052, section 3.1.
  void ShiftMultiply(const StepRows& step,
                     const ShiftMultiplyArguments& arguments);

  // The diagonal SSM of H3 and S4D, per channel with `pairs` complex states h,
  // each for itself and its conjugate:
  //   h[n] = decay[n] h[n] + p
  //   y = gate activation(Σ_n Re(read[n] h[n]) + d p)
  // The states of the papers are these times B: `read` is 2 C B.
  // Source: S4D, arXiv 2206.11893, section 3; H3, arXiv 2212.14052,
  // section 3.1.
  void DiagonalScan(const StepRows& step,
                    const DiagonalScanArguments& arguments);

  // Causal softmax attention of each token over the tokens of its sequence up
  // to itself, with scores `scale` q k. The step must have blocks.
  void Attention(const StepRows& step, const AttentionArguments& arguments);

  // --- Blocks, which add to `residual` [tokens, d_model]: see
  // kernels/blocks.h.

  void MambaBlock(const StepRows& step, const MambaBlockArguments& block,
                  float* residual);
  void Mamba2Block(const StepRows& step, const Mamba2BlockArguments& block,
                   float* residual);
  void H3Block(const StepRows& step, const H3BlockArguments& block,
               float* residual);
  void S4dBlock(const StepRows& step, const S4dBlockArguments& block,
                float* residual);
  // The step must have blocks of keys and values.
  void AttentionBlock(const StepRows& step,
                      const AttentionBlockArguments& block, float* residual);
  void MlpBlock(const StepRows& step, const MlpBlockArguments& block,
                float* residual);

  // --- Rows and their outcomes.

  // target[to[i]] = source[from[i]], rows of `width` floats; `to` has nothing
  // twice. A call gathers, scatters, or both.
  //   from, to  host, equally many
  void CopyRows(ConstMatrix source, absl::Span<const int32_t> from,
                int64_t width, Matrix target, absl::Span<const int32_t> to);

  // What rows leave of their last tokens in their slots: kept[slot_out] = x of
  // the row's last token; of a row without tokens kept[slot_in].
  //   x     [tokens, width] in
  //   kept  of slots, `width` floats each
  void KeepLastTokens(const StepRows& step, ConstMatrix x, int64_t width,
                      LayerShares kept);

  // finite[i] (host) = 1 if all of x of all tokens of row i is finite, else 0;
  // on a device it is there once an event behind it is reached, with the
  // outcomes.
  //   x  [tokens, width] in
  void FiniteRows(const StepRows& step, ConstMatrix x, int64_t width,
                  absl::Span<uint8_t> finite);

  // outcomes[i] = what row i of logits answers to requests[i], by the rule of
  // kernels/outcomes.h; a row's outcome depends on nothing but these two. On a
  // device it is there once an event behind it is reached, and for rows that
  // follow in the step after.
  //   logits    [requests, ids] in, raw; only ids that may be drawn
  //   requests  host
  //   outcomes  [requests] out, host
  // REQUIRES: ReserveSteps for as many outcomes and ids; ids in requests below
  // `ids`; valid sampling parameters.
  void Outcomes(ConstMatrix logits, int64_t ids,
                absl::Span<const OutcomeRequest> requests,
                absl::Span<Outcome> outcomes);

 protected:
  // For what lies between a block's operations. REQUIRES: ReserveSteps for as
  // many `floats` of each token of the step.
  float* Scratch(const StepRows& step, int64_t floats);
  // The most that ReserveSteps has taken all for.
  const LargestStep& reserved() const { return reserved_; }

  // These do what kernels/blocks.h lists, by the operations below; a back end
  // that has something better falls back on them.
  virtual void DoMambaBlock(const StepRows& step,
                            const MambaBlockArguments& block, float* residual);
  virtual void DoMamba2Block(const StepRows& step,
                             const Mamba2BlockArguments& block,
                             float* residual);
  virtual void DoH3Block(const StepRows& step, const H3BlockArguments& block,
                         float* residual);
  virtual void DoS4dBlock(const StepRows& step, const S4dBlockArguments& block,
                          float* residual);
  virtual void DoAttentionBlock(const StepRows& step,
                                const AttentionBlockArguments& block,
                                float* residual);
  virtual void DoMlpBlock(const StepRows& step, const MlpBlockArguments& block,
                          float* residual);

 private:
  // What a back end implements; arguments have been checked. Those without a
  // body here have the contract of their namesakes above.
  virtual absl::StatusOr<std::unique_ptr<PackedWeight>> DoPack(
      const WeightSource& weight) = 0;
  // What there is to take beside Scratch(). `largest` is nowhere less than what
  // was reserved before.
  virtual absl::Status DoReserveSteps(const LargestStep&) {
    return absl::OkStatus();
  }
  // Brings the step's rows to where kernels read them.
  virtual void DoPrepareStep(const StepRows&) {}
  virtual void DoReplay(uint64_t, absl::FunctionRef<void()> record) {
    record();
  }
  virtual void DoReplayToOutcomes(uint64_t key,
                                  absl::FunctionRef<void()> record,
                                  ConstMatrix logits, int64_t ids,
                                  absl::Span<const OutcomeRequest> requests,
                                  absl::Span<Outcome> outcomes) {
    DoReplay(key, record);
    DoOutcomes(logits, ids, requests, outcomes);
  }
  virtual void DoEmbed(const StepRows& step, const PackedWeight& table,
                       float* residual) = 0;
  virtual void DoAddPositions(const StepRows& step, const float* table,
                              int64_t width, Matrix target) = 0;
  virtual void DoNorm(const NormWeights& norm, int64_t tokens, int64_t d_model,
                      const float* residual, Matrix normed) = 0;
  virtual void DoMatMul(const PackedWeight& weight, int64_t tokens,
                        ConstMatrix x, const MatMulOptions& options,
                        Matrix y) = 0;
  virtual void DoCausalConv1d(const StepRows& step,
                              const CausalConv1dArguments& arguments) = 0;
  virtual void DoSelectiveScan(const StepRows& step,
                               const SelectiveScanArguments& arguments) = 0;
  virtual void DoSsdScan(const StepRows& step,
                         const SsdScanArguments& arguments) = 0;
  virtual void DoGatedNorm(const GatedNormArguments& arguments) = 0;
  virtual void DoShiftMultiply(const StepRows& step,
                               const ShiftMultiplyArguments& arguments) = 0;
  virtual void DoDiagonalScan(const StepRows& step,
                              const DiagonalScanArguments& arguments) = 0;
  virtual void DoAttention(const StepRows& step,
                           const AttentionArguments& arguments) = 0;
  virtual void DoCopyRows(ConstMatrix source, absl::Span<const int32_t> from,
                          int64_t width, Matrix target,
                          absl::Span<const int32_t> to) = 0;
  // By CopyRows.
  virtual void DoKeepLastTokens(const StepRows& step, ConstMatrix x,
                                int64_t width, LayerShares kept);
  virtual void DoFiniteRows(const StepRows& step, ConstMatrix x, int64_t width,
                            absl::Span<uint8_t> finite) = 0;
  virtual void DoOutcomes(ConstMatrix logits, int64_t ids,
                          absl::Span<const OutcomeRequest> requests,
                          absl::Span<Outcome> outcomes) = 0;

  void CheckOutcomes(ConstMatrix logits, int64_t ids,
                     absl::Span<const OutcomeRequest> requests,
                     absl::Span<Outcome> outcomes) const;
  bool ComputesAll(std::initializer_list<ConstMatrix> matrices) const;
  // Rows that a step is padded with.
  int64_t PaddingFor(const StepRows& step, int64_t most_rows) const;
  // Lays out rows that follow with what the last outcomes say.
  void AssignFollowing(absl::Span<const Row> rows,
                       absl::Span<const absl::Span<const int32_t>> blocks,
                       absl::Span<const int32_t> ids);
  StepRows step_;
  absl::Span<const Outcome> last_outcomes_;
  LargestStep reserved_;
  std::unique_ptr<Buffer> scratch_;  // of blocks
};

// --- For back ends without a queue of work or memory of their own.

std::unique_ptr<DeviceEvent> MakeReachedEvent();
// Ordinary memory of the process, not touched before it is written.
// RESOURCE_EXHAUSTED with the bytes asked for.
absl::StatusOr<std::unique_ptr<Buffer>> AllocateOrdinaryMemory(size_t bytes);

// Threads that compute on a CPU, for the back ends of several models.
namespace cpu {
class ThreadPool;
}  // namespace cpu

// `threads` counts the one that calls an operation; 0: as many as this process
// can use (UsableProcessors). INVALID_ARGUMENT if it is negative or absurdly
// large. Throws std::system_error if the machine has no more threads.
absl::StatusOr<std::shared_ptr<cpu::ThreadPool>> MakeThreadPool(int threads);

enum class BackendKind { kAuto, kCpu, kCuda };
inline constexpr char kBackendKindNames[] = "auto, cpu or cuda";
// Nothing if no kind is called so.
std::optional<BackendKind> FindBackendKind(absl::string_view name);

// Of a device of CUDA's; a CPU has none of them.
struct DeviceOptions {
  int index = 0;  // among those that the process sees
  // What all back ends on it together may take of its memory; 0: what it has
  // free when the first of them is made, but a reserve of 1.5 GiB. That first
  // one's holds as long as one of them lives.
  int64_t memory = 0;
  // What all back ends of the process together may pin of the host's memory; 0:
  // as much as the system gives. The first one's holds as long as one of them
  // lives.
  int64_t pinned_memory = 0;
  // Any cut of a sequence into rows gives the same bits: SsdScan steps through
  // long rows, where else it scans whole chunks (Backend::ssd_chunk_tokens).
  bool deterministic = false;
};

struct BackendOptions {
  BackendKind kind = BackendKind::kAuto;
  int threads = 0;  // of the CPU, as MakeThreadPool's
  // Used in place of threads of its own, together with other back ends.
  std::shared_ptr<cpu::ThreadPool> pool = nullptr;
  // Told why, where kAuto takes the CPU though this build has CUDA; may be
  // empty.
  std::function<void(const absl::Status&)> on_no_device = nullptr;
  DeviceOptions device = {};
};

// The devices that back ends of this kind can be had on, each by its index: 1
// of kCpu, and of kAuto where it takes the CPU. Errors: as MakeBackend's.
absl::StatusOr<int> CountDevices(BackendKind kind);

// kAuto takes CUDA if this build has it and there is a device, else the CPU.
// INVALID_ARGUMENT if there are devices, but not that one.
// FAILED_PRECONDITION if kCuda is asked for and cannot be had, with the reason
// and what to do; errors of a device that fails.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(
    const BackendOptions& options);

}  // namespace engram

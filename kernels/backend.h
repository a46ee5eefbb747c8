// Backend: the operations that models are written in, with their shapes and
// mathematics. One implementation per kind of device; models and
// server know only this file.
//
// Memory. Activations, states and packed weights live in memory of the back
// end (Buffer); on a CPU that is host memory. All of it is taken when a model
// is loaded, none during a step.
//
// Rows. A step runs a ragged batch: the tokens of all rows are concatenated
// without padding, `Rows` says where each row lies and which state slot it
// reads and writes. A row of one token (decode) and a row of many (prefill)
// take the same path and give the same bits.
//
// Batch invariance. Every output element of every operation depends only on
// its own row's inputs and is computed in one fixed order of operations,
// whatever the other rows are, however a row is cut into steps and however
// many threads run. Products are summed over k in ascending order.
//
// Threads. Engine thread only: one caller at a time. Operations are
// asynchronous on a device with a queue; Synchronize() waits for them.
// Operations have no failure that a caller could handle: wrong shapes are bugs
// (ENGRAM_CHECK), device faults are reported by Synchronize().
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/outcomes.h"
#include "kernels/tensor.h"

namespace engram {

// Memory of a back end; freed with the object. 64-byte aligned, zeroed.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual void* data() = 0;
  virtual const void* data() const = 0;
  virtual size_t bytes() const = 0;

  float* floats() { return static_cast<float*>(data()); }
  const float* floats() const { return static_cast<const float*>(data()); }
};

// How the values of a weight are stored. A product widens them to float32,
// which is exact, and sums in float32 whatever the format.
enum class WeightFormat { kFloat32, kBFloat16, kFloat16 };

// "f32", "bf16", "f16".
const char* WeightFormatName(WeightFormat format);
// The type that holds values of the format, and the format of values of a type.
DataType StoredType(WeightFormat format);
WeightFormat FormatOf(DataType type);

// A matrix [outputs, inputs] laid out for MatMul as the back end likes it;
// opaque to models.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  virtual int64_t outputs() const = 0;
  virtual int64_t inputs() const = 0;
  virtual WeightFormat format() const = 0;
  virtual size_t bytes() const = 0;
};

// One sequence's share of a step.
struct Row {
  int slot = 0;    // its state
  int offset = 0;  // first of its tokens in the concatenation
  int tokens = 0;  // >= 1
};
using Rows = absl::Span<const Row>;

// kGelu is the exact one, by the error function; kGeluTanh its approximation
// x (1 + tanh(sqrt(2/π) (x + 0.044715 x³))) / 2.
enum class Activation { kNone, kSilu, kGelu, kGeluTanh };
enum class NormKind { kRms, kLayer };

struct NormWeights {
  NormKind kind = NormKind::kRms;
  const float* weight = nullptr;  // [d_model]
  const float* bias = nullptr;    // [d_model], kLayer only
  float epsilon = 1e-5f;
};

struct MatMulOptions {
  const float* bias = nullptr;  // [outputs]
  Activation activation = Activation::kNone;
  // y += result instead of y = result; added after bias and activation.
  bool accumulate = false;
};

// A matrix of activations: `stride` floats from one token to the next, so that
// a part of a wider matrix needs no copy.
struct ConstMatrix {
  const float* data = nullptr;
  int64_t stride = 0;
};
struct Matrix {
  float* data = nullptr;
  int64_t stride = 0;
  operator ConstMatrix() const { return {data, stride}; }
};

// One layer's share of every slot of states, or of every block of keys and
// values: `stride` floats from one slot or block to the next.
struct LayerShares {
  float* data = nullptr;
  int64_t stride = 0;
  float* operator[](int64_t index) const { return data + index * stride; }
};

struct CausalConv1dArguments {
  int64_t channels = 0;
  int64_t d_conv = 0;
  ConstMatrix x;        // [tokens, channels]
  const float* weight;  // [d_conv, channels]; the last tap is the current
                        // token's
  const float* bias;    // [channels], or nullptr
  Activation activation = Activation::kSilu;  // or kNone
  // In and out: [d_conv-1, channels] of each slot, its last inputs, oldest
  // first.
  LayerShares conv_state;
  Matrix y;  // [tokens, channels] out, not x
};

struct SelectiveScanArguments {
  int64_t d_inner = 0;
  int64_t d_state = 0;
  ConstMatrix x;         // [tokens, d_inner] after convolution and SiLU
  ConstMatrix dt;        // [tokens, d_inner] before bias and softplus
  ConstMatrix b;         // [tokens, d_state]
  ConstMatrix c;         // [tokens, d_state]
  ConstMatrix z;         // [tokens, d_inner] gate
  const float* dt_bias;  // [d_inner]
  const float* a;        // [d_state, d_inner], -exp(A_log) transposed
  const float* d;        // [d_inner]
  // In and out: [d_state, d_inner] of each slot; the scan of a row starts from
  // its slot and leaves its last state there.
  LayerShares ssm_state;
  Matrix y;  // [tokens, d_inner] out, gated; may be the same as x
};

struct SsdScanArguments {
  int64_t heads = 0;
  int64_t groups = 0;  // divides heads
  int64_t head_dim = 0;
  int64_t d_state = 0;
  ConstMatrix x;         // [tokens, heads head_dim] after convolution and SiLU
  ConstMatrix dt;        // [tokens, heads] before bias and softplus
  ConstMatrix b;         // [tokens, groups d_state]
  ConstMatrix c;         // [tokens, groups d_state]
  const float* dt_bias;  // [heads]
  const float* a;        // [heads], -exp(A_log)
  const float* d;        // [heads]
  // Bounds of Δ; dt_max may be infinity.
  float dt_min = 0;
  float dt_max = std::numeric_limits<float>::infinity();
  // In and out: [heads, d_state, head_dim] of each slot; the scan of a row
  // starts from its slot and leaves its last state there.
  LayerShares ssm_state;
  Matrix y;  // [tokens, heads head_dim] out; may be the same as x
};

struct GatedNormArguments {
  int64_t tokens = 0;
  int64_t d_inner = 0;
  int64_t groups = 1;             // divides d_inner
  ConstMatrix y;                  // [tokens, d_inner]
  ConstMatrix z;                  // [tokens, d_inner] gate
  const float* weight = nullptr;  // [d_inner]; nullptr: the gate without a norm
  float epsilon = 1e-5f;
  Matrix normed;  // [tokens, d_inner] out; may be the same as y
};

struct ShiftMultiplyArguments {
  int64_t channels = 0;
  int64_t taps = 0;
  ConstMatrix k;        // [tokens, channels]
  ConstMatrix v;        // [tokens, channels]
  const float* filter;  // [taps, channels], the last tap is the current token's
  // In and out: [taps-1, channels] of each slot, its last inputs k, oldest
  // first.
  LayerShares shift_state;
  Matrix p;  // [tokens, channels] out; may be the same as v, not as k
};

struct DiagonalScanArguments {
  int64_t channels = 0;
  int64_t pairs = 0;   // complex states per channel
  ConstMatrix p;       // [tokens, channels]
  ConstMatrix gate;    // [tokens, channels]; data nullptr: none
  const float* decay;  // [pairs, 2, channels], real and imaginary parts
  const float* read;   // [pairs, 2, channels], likewise
  const float* d;      // [channels]
  Activation activation = Activation::kNone;
  // In and out: [pairs, 2, channels] of each slot; the scan of a row starts
  // from its slot and leaves its last state there.
  LayerShares diagonal_state;
  Matrix y;  // [tokens, channels] out; may be the same as p
};

// Keys and values of attention layers lie in blocks of this many tokens. A
// block of one layer is [kv_heads, head_dim, block tokens] keys and then
// [kv_heads, block tokens, head_dim] values: scores are computed for all tokens
// of a block side by side, and sums of values for all channels.
inline constexpr int64_t kKeyValueBlockTokens = 32;

// What attention needs to know of a row's sequence.
struct RowHistory {
  int64_t position = 0;  // tokens before the row's first
  // Host memory: the blocks of its tokens 0, 1, ..., the row's own included.
  absl::Span<const int32_t> blocks;
};

struct AttentionArguments {
  int64_t heads = 0;
  // Heads of keys and values, a divisor of `heads`: head h of the queries looks
  // at head h / (heads / kv_heads) of them.
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 0;  // of the scores; usually 1 / sqrt(head_dim)
  // The leading dimensions of each head of q and k that are rotated by
  // position: dimension i with i + rotary_dim / 2, by the angle position
  // frequencies[i]. Even, at most head_dim; 0: none.
  int64_t rotary_dim = 0;
  const double* frequencies = nullptr;     // [rotary_dim / 2]
  ConstMatrix q;                           // [tokens, heads head_dim]
  ConstMatrix k;                           // [tokens, kv_heads head_dim]
  ConstMatrix v;                           // [tokens, kv_heads head_dim]
  absl::Span<const RowHistory> histories;  // one per row
  // In and out: [2 kv_heads head_dim kKeyValueBlockTokens] of each block; the
  // rows' keys (rotated) and values are added behind those of their histories.
  LayerShares blocks;
  Matrix y;  // [tokens, heads head_dim] out; may be the same as q
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;  // "cpu", "cuda"

  // --- Memory. All pointers below are of this back end unless "host" is said.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) = 0;
  virtual void CopyToHost(void* host, const void* source, size_t bytes) = 0;
  virtual void CopyFromHost(void* target, const void* host, size_t bytes) = 0;
  virtual void Copy(void* target, const void* source, size_t bytes) = 0;
  virtual void Zero(void* target, size_t bytes) = 0;
  // Waits for everything above and below; INTERNAL if the device failed.
  virtual absl::Status Synchronize() = 0;

  // Lays out `weight` [outputs, inputs] (host memory) for MatMul, its values
  // rounded to the nearest of `format` (ties to even) unless they have it
  // already. INVALID_ARGUMENT: no matrix, or a value that the format has no
  // finite number for.
  virtual absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(
      const Tensor& weight, WeightFormat format) = 0;

  // --- Operations.

  // residual[t] = table[ids[t]], widened to float.
  //   table     [vocab, d_model] in, packed (any format)
  //   ids       [tokens] in, host, each in [0, vocab)
  //   residual  [tokens, d_model] out
  virtual void Embed(const PackedWeight& table, absl::Span<const int32_t> ids,
                     float* residual) = 0;

  // normed = Norm(residual), float32 statistics. RmsNorm: x / sqrt(mean(x²) +
  // eps) * weight. LayerNorm subtracts the mean first and adds the bias. The
  // sum before it is MatMul's `accumulate`, which spares a pass over memory.
  //   residual  [tokens, d_model] in
  //   normed    [tokens, d_model] out
  virtual void Norm(const NormWeights& norm, int64_t tokens, int64_t d_model,
                    const float* residual, float* normed) = 0;

  // y = activation(x Wᵀ + bias), or added to y.
  //   x  [tokens, inputs] in
  //   y  [tokens, outputs] out
  virtual void MatMul(const PackedWeight& weight, int64_t tokens, ConstMatrix x,
                      const MatMulOptions& options, Matrix y) = 0;

  // Depthwise causal convolution over each row's tokens; those before the row
  // come from its slot:
  //   y_t = activation(bias + Σ_j weight[j] x_{t-(d_conv-1)+j})
  // Source: Mamba, arXiv 2312.00752, section 3.4.
  virtual void CausalConv1d(Rows rows,
                            const CausalConv1dArguments& arguments) = 0;

  // Mamba's selective scan with its gate, per channel e and state n:
  //   Δ = softplus(dt + dt_bias)
  //   h = exp(Δ a[n]) h + Δ b[n] x
  //   y = (Σ_n c[n] h[n] + d x) silu(z)
  // softplus(v) = log1p(exp(v)), v itself above 20.
  // Source: Mamba, arXiv 2312.00752, Algorithm 2.
  virtual void SelectiveScan(Rows rows,
                             const SelectiveScanArguments& arguments) = 0;

  // Mamba-2's scan, per head with its d_state x head_dim states h, where b and
  // c are those of the head's group, head / (heads / groups), and p is one of
  // its head_dim channels:
  //   Δ = clamp(softplus(dt + dt_bias), dt_min, dt_max)
  //   h[n, p] = exp(Δ a) h[n, p] + b[n] (Δ x[p])
  //   y[p] = Σ_n c[n] h[n, p] + d x[p]
  // Source: Mamba-2, arXiv 2405.21060, section 7.
  virtual void SsdScan(Rows rows, const SsdScanArguments& arguments) = 0;

  // v = y ⊙ silu(z), then RmsNorm of each of `groups` equal parts of v:
  // normed = v / sqrt(mean(v²) + epsilon) * weight. Without weights, v itself.
  // Source: Mamba-2, arXiv 2405.21060, section 7.
  virtual void GatedNorm(const GatedNormArguments& arguments) = 0;

  // H3's shift SSM, which is a causal filter per channel, and what it is
  // multiplied by; tokens before the row come from its slot:
  //   p_t = (Σ_j filter[j] k_{t-(taps-1)+j}) v_t
  // summed from the oldest token to the newest.
  // Source: H3, arXiv 2212.14052, section 3.1.
  virtual void ShiftMultiply(Rows rows,
                             const ShiftMultiplyArguments& arguments) = 0;

  // The diagonal SSM of H3 and S4D, per channel with `pairs` complex states h,
  // each for itself and its conjugate:
  //   h[n] = decay[n] h[n] + p
  //   y = gate activation(Σ_n Re(read[n] h[n]) + d p)
  // The states of the papers are these times B: `read` is 2 C B.
  // Source: S4D, arXiv 2206.11893, section 3; H3, arXiv 2212.14052,
  // section 3.1.
  virtual void DiagonalScan(Rows rows,
                            const DiagonalScanArguments& arguments) = 0;

  // Causal softmax attention of each token over the tokens of its sequence up
  // to itself, with scores scale q k.
  virtual void Attention(Rows rows, const AttentionArguments& arguments) = 0;

  // target[i] += table[indices[i]], rows of `width` floats.
  //   table    [rows, width] in
  //   indices  host
  virtual void AddRows(const float* table, absl::Span<const int32_t> indices,
                       int64_t width, Matrix target) = 0;

  // target[i] = source[indices[i]], rows of `width` floats.
  //   indices  host
  virtual void Gather(ConstMatrix source, absl::Span<const int32_t> indices,
                      int64_t width, Matrix target) = 0;

  // finite[i] (host) = whether all of row i of x [rows, width] is finite.
  // Waits for the result.
  virtual void AllFinite(ConstMatrix x, int64_t rows, int64_t width,
                         absl::Span<uint8_t> finite) = 0;

  // outcomes[i] = what row i of logits answers to requests[i], by the rule of
  // kernels/outcomes.h; a row's outcome depends on nothing but these two. On a
  // device it is there after Synchronize().
  //   logits    [requests, ids] in, raw; only ids that may be drawn
  //   requests  host
  //   outcomes  [requests] out, host
  // REQUIRES: ReserveOutcomes for as many rows and ids; ids in requests below
  // `ids`; valid sampling parameters.
  virtual void Outcomes(ConstMatrix logits, int64_t ids,
                        absl::Span<const OutcomeRequest> requests,
                        absl::Span<Outcome> outcomes) = 0;
  // Takes what Outcomes() needs for `rows` rows of `ids` logits; more than once
  // is the most of each.
  virtual absl::Status ReserveOutcomes(int64_t rows, int64_t ids) = 0;
};

// Threads that compute on a CPU, for the back ends of several models.
namespace cpu {
class ThreadPool;
}  // namespace cpu

// `threads` counts the one that calls an operation; 0: as many as this process
// can use (UsableProcessors). INVALID_ARGUMENT if it is negative or absurdly
// large. Throws std::system_error if the machine has no more threads.
absl::StatusOr<std::shared_ptr<cpu::ThreadPool>> MakeThreadPool(int threads);

enum class BackendKind { kAuto, kCpu, kCuda };

struct BackendOptions {
  BackendKind kind = BackendKind::kAuto;
  int threads = 0;  // of the CPU, as MakeThreadPool's
  // Used in place of threads of its own, together with other back ends.
  std::shared_ptr<cpu::ThreadPool> pool = nullptr;
};

// kAuto takes CUDA if this build has it and a device answers, else the CPU.
// FAILED_PRECONDITION if kCuda is asked for and cannot be had, with the reason.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(
    const BackendOptions& options);

}  // namespace engram

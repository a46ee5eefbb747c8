// What the operations of kernels/backend.h take: weights, matrices of
// activations, shares of states, and the arguments of each operation.
//
// None of these own what they point to, which is memory of the back end that is
// given them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include "absl/strings/string_view.h"
#include "kernels/tensor.h"

namespace engram {

// How the values of a weight are stored. A product takes them as they are and
// sums in float32 whatever the format.
//
// kInt8: the inputs of an output in units of 64, the last one shorter, each
// with a float32 scale; a value is an integer from -127 to 127, times the
// scale, rounded to float32.
// kInt4: the inputs of an output in groups of 32, the last one shorter, each
// with a scale and a minimum in float16; a value is an integer from 0 to 15,
// times the scale, plus the minimum, rounded to float32.
enum class WeightFormat { kFloat32, kBFloat16, kFloat16, kInt8, kInt4 };
inline constexpr WeightFormat kWeightFormats[] = {
    WeightFormat::kFloat32, WeightFormat::kBFloat16, WeightFormat::kFloat16,
    WeightFormat::kInt8, WeightFormat::kInt4};
inline constexpr int64_t kInt8UnitInputs = 64;
constexpr int64_t Int8Units(int64_t inputs) {
  return (inputs + kInt8UnitInputs - 1) / kInt8UnitInputs;
}
inline constexpr int64_t kInt4GroupInputs = 32;
constexpr int64_t Int4Groups(int64_t inputs) {
  return (inputs + kInt4GroupInputs - 1) / kInt4GroupInputs;
}

// "f32", "bf16", "f16", "int8", "int4".
const char* WeightFormatName(WeightFormat format);
inline constexpr char kWeightFormatNames[] = "f32, bf16, f16, int8 or int4";
// Nothing if no format is called so.
std::optional<WeightFormat> FindWeightFormat(absl::string_view name);
// Whether values are integers that mean something with their scales alone.
constexpr bool IsQuantised(WeightFormat format) {
  return format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
}
// The type that holds values of the format, and the format of values of a type.
// REQUIRES: not IsQuantised, which no type holds.
DataType StoredType(WeightFormat format);
WeightFormat FormatOf(DataType type);
// What a weight of this shape takes, with its scales and without padding.
int64_t WeightBytes(WeightFormat format, int64_t outputs, int64_t inputs);

struct WeightShape {
  int64_t outputs = 0;
  int64_t inputs = 0;
  WeightFormat format = WeightFormat::kFloat32;

  auto operator<=>(const WeightShape&) const = default;
};

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
  // y += x Wᵀ + bias instead of y = ...; not with an activation.
  bool accumulate = false;
};

// A matrix of activations: `stride` values from one token to the next, so that
// a part of a wider matrix needs no copy. Which types there may be where says
// kernels/backend.h; one that may be the same as another is so with one type.
struct ConstMatrix {
  const void* data = nullptr;
  int64_t stride = 0;
  DataType type = DataType::kFloat32;

  // REQUIRES: type is kFloat32.
  const float* floats() const { return static_cast<const float*>(data); }
};
struct Matrix {
  void* data = nullptr;
  int64_t stride = 0;
  DataType type = DataType::kFloat32;

  float* floats() const { return static_cast<float*>(data); }
  operator ConstMatrix() const { return {data, stride, type}; }
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
  // slot_in and leaves its last state in slot_out.
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
  // starts from slot_in and leaves its last state in slot_out.
  LayerShares ssm_state;
  Matrix y;  // [tokens, heads head_dim] out; may be the same as x
  // Memory of SsdRoomFloats() for each token, at a multiple of 16 bytes, for
  // what a back end keeps of a scan while it runs. Needed where
  // ssd_chunk_tokens() is more than 1 and a row holds a whole chunk.
  float* room = nullptr;
};

// Both factors of a token, each with as many states as tensor cores take, and
// their products with those of the chunk.
inline int64_t SsdRoomFloats(int64_t groups, int64_t d_state) {
  return groups * (2 * ((d_state + 15) / 16 * 16) + 40);
}

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
  // In and out: [taps-1, channels] of each slot, its last inputs k in a ring:
  // the token at position p of a sequence has place p mod (taps-1).
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
  // from slot_in and leaves its last state in slot_out.
  LayerShares diagonal_state;
  Matrix y;  // [tokens, channels] out; may be the same as p
};

// Keys and values of attention layers lie in blocks of this many tokens. A
// block of one layer is [kv_heads, head_dim, block tokens] keys and then
// [kv_heads, block tokens, head_dim] values: scores are computed for all tokens
// of a block side by side, and sums of values for all channels.
inline constexpr int64_t kKeyValueBlockTokens = 32;

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
  const double* frequencies = nullptr;  // [rotary_dim / 2]
  ConstMatrix q;                        // [tokens, heads head_dim]
  ConstMatrix k;                        // [tokens, kv_heads head_dim]
  ConstMatrix v;                        // [tokens, kv_heads head_dim]
  // In and out: [2 kv_heads head_dim kKeyValueBlockTokens] of each block; the
  // rows' keys (rotated) and values are added behind those of their sequences'
  // earlier tokens.
  LayerShares blocks;
  Matrix y;  // [tokens, heads head_dim] out; may be the same as q
};

}  // namespace engram

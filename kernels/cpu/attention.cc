// Three passes: q and k are rotated, keys and values are added to the blocks of
// their rows, and then every token and head attends. An item of the last is a
// few neighbouring tokens of a row by one head; they share the keys and values
// that they load.
//
// Each token and head goes over the blocks of its sequence in ascending order
// with a softmax whose maximum and sum are corrected block by block. Blocks lie
// at absolute positions and everything is added up in one order, so no result
// depends on how a row was cut or how many tokens shared a block.
//
// Memory per token and head: 8 head_dim bytes of keys and values are written,
// and 8 head_dim bytes per token of the history are read, once per item.
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

// Shared by all targets, hence defined once.
#ifndef ENGRAM_KERNELS_CPU_ATTENTION_ONCE_
#define ENGRAM_KERNELS_CPU_ATTENTION_ONCE_
namespace engram::cpu {

inline constexpr int64_t kBlockTokens = kKeyValueBlockTokens;
// Tokens of an item.
inline constexpr int64_t kItemTokens = 8;

// Neighbouring tokens of a row, which has `history`.
struct TokenGroup {
  const RowHistory* history;
  int64_t token;     // the first, in the concatenation
  int64_t position;  // of the first
  int64_t tokens;
};

// The keys [head_dim, kBlockTokens] and values [kBlockTokens, head_dim] of a
// head in one block.
inline int64_t KeyOffset(const AttentionArguments& arguments, int32_t block,
                         int64_t head) {
  return (block * int64_t{2} * arguments.heads + head) * arguments.head_dim *
         kBlockTokens;
}
inline int64_t ValueOffset(const AttentionArguments& arguments, int32_t block,
                           int64_t head) {
  return KeyOffset(arguments, block, arguments.heads + head);
}

}  // namespace engram::cpu
#endif  // ENGRAM_KERNELS_CPU_ATTENTION_ONCE_

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());
constexpr int64_t kBlockVectors = kBlockTokens / kLanes;
static_assert(kBlockTokens % kLanes == 0);
// So many tokens by so many vectors fit into the registers; a single token
// takes more vectors, whose sums would otherwise wait for each other.
constexpr bool kManyRegisters = HWY_MAX_BYTES == 64 || HWY_ARCH_ARM;
constexpr int64_t kTileTokens = kManyRegisters ? 8 : 4;
template <int64_t kTokens>
constexpr int64_t kTileVectors = kTokens == 1 ? 4 : 2;

// What kTokens tokens know of their softmax, and their last scores.
template <int64_t kTokens>
struct Softmax {
  float maximum[kTokens];
  // The correction of what was summed up with an earlier maximum.
  float rescale[kTokens];
  // Sums of exponentials, one for each place in a block.
  HWY_ALIGN float sums[kTokens][kBlockTokens];
  // Scores of a block's tokens, then their exponentials.
  HWY_ALIGN float weights[kTokens][kBlockTokens];
};

// A head's part of a few tokens' tensors.
struct Tokens {
  const float* q;
  int64_t q_stride;
  // The sums of values are built where the keys were: those are in the blocks.
  float* sums;
  int64_t sums_stride;
};

template <int64_t kTokens>
HWY_INLINE void Scores(const Tokens& tokens, const float* HWY_RESTRICT keys,
                       int64_t head_dim, float scale,
                       Softmax<kTokens>& softmax) {
  const FloatTag tag;
  constexpr int64_t kVectors = std::min(kTileVectors<kTokens>, kBlockVectors);
  for (int64_t first = 0; first < kBlockTokens; first += kVectors * kLanes) {
    FloatVector sums[kTokens][kVectors];
    for (int64_t i = 0; i < kTokens; ++i) {
      for (int64_t v = 0; v < kVectors; ++v) sums[i][v] = hn::Zero(tag);
    }
    for (int64_t d = 0; d < head_dim; ++d) {
      FloatVector key[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) {
        key[v] = hn::LoadU(tag, keys + d * kBlockTokens + first + v * kLanes);
      }
      for (int64_t i = 0; i < kTokens; ++i) {
        const FloatVector q = Constant(tokens.q[i * tokens.q_stride + d]);
        for (int64_t v = 0; v < kVectors; ++v) {
          sums[i][v] = hn::MulAdd(q, key[v], sums[i][v]);
        }
      }
    }
    for (int64_t i = 0; i < kTokens; ++i) {
      for (int64_t v = 0; v < kVectors; ++v) {
        hn::Store(hn::Mul(sums[i][v], Constant(scale)), tag,
                  softmax.weights[i] + first + v * kLanes);
      }
    }
  }
}

// Turns the scores of token i, which sees the first `count` of a block's
// tokens, into weights.
template <int64_t kTokens>
HWY_INLINE void Exponentials(int64_t i, int64_t count,
                             Softmax<kTokens>& softmax) {
  const FloatTag tag;
  float* const weights = softmax.weights[i];
  if (count < kBlockTokens) {
    for (int64_t v = 0; v < kBlockTokens; v += kLanes) {
      const auto seen = hn::Lt(hn::Iota(tag, static_cast<float>(v)),
                               Constant(static_cast<float>(count)));
      hn::Store(
          hn::IfThenElse(seen, hn::Load(tag, weights + v),
                         Constant(-std::numeric_limits<float>::infinity())),
          tag, weights + v);
    }
  }
  // Comparisons rather than Max: NaN, which has no order, is passed over here
  // and comes back in the exponentials.
  const FloatVector earlier = Constant(softmax.maximum[i]);
  FloatVector maximum = earlier;
  for (int64_t v = 0; v < kBlockTokens; v += kLanes) {
    const FloatVector score = hn::Load(tag, weights + v);
    maximum = hn::IfThenElse(hn::Gt(score, maximum), score, maximum);
  }
  maximum = hn::MaxOfLanes(tag, maximum);
  const FloatVector rescale = Exp(hn::Sub(earlier, maximum));
  softmax.rescale[i] = hn::GetLane(rescale);
  softmax.maximum[i] = hn::GetLane(maximum);
  for (int64_t v = 0; v < kBlockTokens; v += kLanes) {
    const FloatVector weight =
        Exp(hn::Sub(hn::Load(tag, weights + v), maximum));
    hn::Store(weight, tag, weights + v);
    float* const sums = softmax.sums[i] + v;
    hn::Store(hn::MulAdd(hn::Load(tag, sums), rescale, weight), tag, sums);
  }
}

// Adds the weighted values of a block to kVectors vectors of the sums from
// channel d on. Token i sees the first seen + i of the block's tokens; what
// lies behind may be anything, even NaN, and is left alone.
template <int64_t kTokens, int64_t kVectors, bool kWhole>
HWY_INLINE void AddValues(const Tokens& tokens,
                          const float* HWY_RESTRICT values, int64_t head_dim,
                          int64_t seen, int64_t d, size_t channels,
                          const Softmax<kTokens>& softmax) {
  FloatVector sums[kTokens][kVectors];
  for (int64_t i = 0; i < kTokens; ++i) {
    const FloatVector rescale = Constant(softmax.rescale[i]);
    for (int64_t v = 0; v < kVectors; ++v) {
      const float* const sum =
          tokens.sums + i * tokens.sums_stride + d + v * kLanes;
      sums[i][v] = hn::Mul(LoadPart<kWhole>(sum, channels), rescale);
    }
  }
  // Value j, for the tokens from the given one on.
  const auto add = [&](int64_t j, int64_t first) HWY_ATTR {
    FloatVector value[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) {
      value[v] =
          LoadPart<kWhole>(values + j * head_dim + d + v * kLanes, channels);
    }
    for (int64_t i = first; i < kTokens; ++i) {
      const FloatVector weight = Constant(softmax.weights[i][j]);
      for (int64_t v = 0; v < kVectors; ++v) {
        sums[i][v] = hn::MulAdd(weight, value[v], sums[i][v]);
      }
    }
  };
  const int64_t all_see = std::min(seen, kBlockTokens);
  for (int64_t j = 0; j < all_see; ++j) add(j, 0);
  if (seen < kBlockTokens) {
    for (int64_t i = 1; i < kTokens; ++i) {
      const int64_t j = seen + i - 1;
      if (j >= 0 && j < kBlockTokens) add(j, i);
    }
  }
  for (int64_t i = 0; i < kTokens; ++i) {
    for (int64_t v = 0; v < kVectors; ++v) {
      StorePart<kWhole>(sums[i][v],
                        tokens.sums + i * tokens.sums_stride + d + v * kLanes,
                        channels);
    }
  }
}

// One block, of which token i sees the first seen + i tokens. A token that sees
// none is left as it is.
template <int64_t kTokens>
HWY_INLINE void AttendBlock(const AttentionArguments& arguments, int64_t head,
                            int32_t block, int64_t seen, float scale,
                            const Tokens& tokens, Softmax<kTokens>& softmax) {
  const int64_t head_dim = arguments.head_dim;
  Scores<kTokens>(tokens, arguments.blocks + KeyOffset(arguments, block, head),
                  head_dim, scale, softmax);
  for (int64_t i = 0; i < kTokens; ++i) Exponentials(i, seen + i, softmax);
  const float* const values =
      arguments.blocks + ValueOffset(arguments, block, head);
  constexpr int64_t kVectors = kTileVectors<kTokens>;
  int64_t d = 0;
  for (; d + kVectors * kLanes <= head_dim; d += kVectors * kLanes) {
    AddValues<kTokens, kVectors, true>(tokens, values, head_dim, seen, d,
                                       kLanes, softmax);
  }
  for (; d + kLanes <= head_dim; d += kLanes) {
    AddValues<kTokens, 1, true>(tokens, values, head_dim, seen, d, kLanes,
                                softmax);
  }
  if (d < head_dim) {
    AddValues<kTokens, 1, false>(tokens, values, head_dim, seen, d,
                                 head_dim - d, softmax);
  }
}

// The sum of all lanes, in one order for every vector width.
HWY_INLINE float SumOfBlock(float* sums) {
  for (int64_t half = kBlockTokens / 2; half > 0; half /= 2) {
    for (int64_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

template <int64_t kTokens>
void Attend(const AttentionArguments& arguments, const TokenGroup& group,
            int64_t head) {
  const int64_t column = head * arguments.head_dim;
  Tokens tokens;
  tokens.q = arguments.q.data + group.token * arguments.q.stride + column;
  tokens.q_stride = arguments.q.stride;
  tokens.sums = arguments.k.data + group.token * arguments.k.stride + column;
  tokens.sums_stride = arguments.k.stride;
  Softmax<kTokens> softmax;
  std::memset(softmax.sums, 0, sizeof(softmax.sums));
  for (int64_t i = 0; i < kTokens; ++i) {
    softmax.maximum[i] = -std::numeric_limits<float>::infinity();
    std::memset(tokens.sums + i * tokens.sums_stride, 0,
                arguments.head_dim * sizeof(float));
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(arguments.head_dim));
  const int64_t last = group.position + kTokens - 1;
  for (int64_t block = 0; block <= last / kBlockTokens; ++block) {
    AttendBlock<kTokens>(arguments, head, group.history->blocks[block],
                         group.position + 1 - block * kBlockTokens, scale,
                         tokens, softmax);
  }
  const FloatTag tag;
  for (int64_t i = 0; i < kTokens; ++i) {
    const FloatVector sum = Constant(SumOfBlock(softmax.sums[i]));
    const float* const sums = tokens.sums + i * tokens.sums_stride;
    float* const y =
        arguments.y.data + (group.token + i) * arguments.y.stride + column;
    int64_t d = 0;
    for (; d + kLanes <= arguments.head_dim; d += kLanes) {
      hn::StoreU(hn::Div(hn::LoadU(tag, sums + d), sum), tag, y + d);
    }
    if (d < arguments.head_dim) {
      const size_t rest = arguments.head_dim - d;
      StoreFirst(hn::Div(LoadFirst(sums + d, rest), sum), y + d, rest);
    }
  }
}

// For a group of at most kTokens tokens.
template <int64_t kTokens>
void AttendGroup(const AttentionArguments& arguments, const TokenGroup& group,
                 int64_t head) {
  if (group.tokens == kTokens) return Attend<kTokens>(arguments, group, head);
  if constexpr (kTokens > 1) AttendGroup<kTokens - 1>(arguments, group, head);
}

void AttendItem(const AttentionArguments& arguments, const TokenGroup& item,
                int64_t head) {
  for (int64_t first = 0; first < item.tokens; first += kTileTokens) {
    AttendGroup<kTileTokens>(
        arguments,
        {item.history, item.token + first, item.position + first,
         std::min(kTileTokens, item.tokens - first)},
        head);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {
namespace {

HWY_EXPORT(AttendItem);

// Multiplications below which waking a thread costs more than it saves.
constexpr int64_t kParallelWork = 1 << 16;

constexpr double kRotaryBase = 10000.0;

int64_t GroupsOf(const Row& row) {
  return (row.tokens + kItemTokens - 1) / kItemTokens;
}

// Group `index` of all rows' groups.
TokenGroup GroupAt(Rows rows, const AttentionArguments& arguments,
                   int64_t index) {
  size_t row = 0;
  for (; index >= GroupsOf(rows[row]); ++row) index -= GroupsOf(rows[row]);
  const int64_t first = index * kItemTokens;
  const RowHistory& history = arguments.histories[row];
  return {&history, rows[row].offset + first, history.position + first,
          std::min(kItemTokens, rows[row].tokens - first)};
}

void Rotate(const AttentionArguments& arguments, const Matrix& matrix,
            int64_t token, int64_t i, float cosine, float sine) {
  const int64_t half = arguments.rotary_dim / 2;
  float* x = matrix.data + token * matrix.stride + i;
  for (int64_t head = 0; head < arguments.heads; ++head) {
    const float first = x[0], second = x[half];
    x[0] = first * cosine - second * sine;
    x[half] = second * cosine + first * sine;
    x += arguments.head_dim;
  }
}

// Rotates q and k of a group's tokens and adds keys and values to the blocks.
void Append(const AttentionArguments& arguments, const TokenGroup& group) {
  const int64_t head_dim = arguments.head_dim;
  for (int64_t t = 0; t < group.tokens; ++t) {
    const int64_t token = group.token + t;
    const int64_t position = group.position + t;
    for (int64_t i = 0; i < arguments.rotary_dim / 2; ++i) {
      const double exponent =
          -2.0 * static_cast<double>(i) / arguments.rotary_dim;
      const double angle = position * std::pow(kRotaryBase, exponent);
      const float cosine = static_cast<float>(std::cos(angle));
      const float sine = static_cast<float>(std::sin(angle));
      Rotate(arguments, arguments.q, token, i, cosine, sine);
      Rotate(arguments, arguments.k, token, i, cosine, sine);
    }
    const int32_t block = group.history->blocks[position / kBlockTokens];
    const int64_t place = position % kBlockTokens;
    const float* k = arguments.k.data + token * arguments.k.stride;
    const float* v = arguments.v.data + token * arguments.v.stride;
    for (int64_t head = 0; head < arguments.heads; ++head) {
      float* const keys =
          arguments.blocks + KeyOffset(arguments, block, head) + place;
      for (int64_t d = 0; d < head_dim; ++d) keys[d * kBlockTokens] = k[d];
      std::memcpy(arguments.blocks + ValueOffset(arguments, block, head) +
                      place * head_dim,
                  v, head_dim * sizeof(float));
      k += head_dim;
      v += head_dim;
    }
  }
}

}  // namespace

void Attention(ThreadPool& threads, Rows rows,
               const AttentionArguments& arguments) {
  int64_t groups = 0;
  int64_t work = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    groups += GroupsOf(rows[i]);
    work += rows[i].tokens *
            (arguments.histories[i].position + rows[i].tokens) *
            arguments.heads * arguments.head_dim;
  }
  const auto append = [&](int64_t group) {
    Append(arguments, GroupAt(rows, arguments, group));
  };
  // A head's groups one after the other find its keys and values in the cache.
  const auto attend = [&](int64_t item) {
    HWY_DYNAMIC_DISPATCH(AttendItem)
    (arguments, GroupAt(rows, arguments, item % groups), item / groups);
  };
  // All keys and values must be there before any token looks at them.
  if (work < kParallelWork) {
    for (int64_t group = 0; group < groups; ++group) append(group);
    for (int64_t item = 0; item < groups * arguments.heads; ++item) {
      attend(item);
    }
  } else {
    threads.ParallelFor(groups, append);
    threads.ParallelFor(groups * arguments.heads, attend);
  }
}

}  // namespace engram::cpu
#endif  // HWY_ONCE

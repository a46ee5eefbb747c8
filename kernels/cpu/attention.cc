// Two passes: keys, rotated, and values are added to the blocks of their rows,
// and then every token and head attends. An item of the second is a few
// neighbouring tokens of a row by one head; they share the keys and values that
// they load.
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
#include <vector>

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

// Neighbouring tokens of a row, whose keys and values lie in `blocks`.
struct TokenGroup {
  const int32_t* blocks;
  int64_t token;     // the first, in the concatenation
  int64_t position;  // of the first
  int64_t tokens;
};

// The keys [head_dim, kBlockTokens] and values [kBlockTokens, head_dim] of a
// head in one block.
inline float* KeysOf(const AttentionArguments& arguments, int32_t block,
                     int64_t head) {
  return arguments.blocks[block] + head * arguments.head_dim * kBlockTokens;
}
inline float* ValuesOf(const AttentionArguments& arguments, int32_t block,
                       int64_t head) {
  return KeysOf(arguments, block, arguments.kv_heads + head);
}

// One head of an item's tokens.
struct HeadItem {
  TokenGroup tokens;
  int64_t head;
  ConstMatrix q;  // [tokens, head_dim], rotated
  float* sums;    // [kItemTokens, head_dim], of the values: for its own use
};

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
  ConstMatrix q;
  float* sums;  // of the values, [kTokens, head_dim]
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
        const FloatVector q =
            Constant(tokens.q.floats()[i * tokens.q.stride + d]);
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
      const float* const sum = tokens.sums + i * head_dim + d + v * kLanes;
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
      StorePart<kWhole>(sums[i][v], tokens.sums + i * head_dim + d + v * kLanes,
                        channels);
    }
  }
}

// One block, of which token i sees the first seen + i tokens. A token that sees
// none is left as it is.
template <int64_t kTokens>
HWY_INLINE void AttendBlock(const AttentionArguments& arguments,
                            int64_t kv_head, int32_t block, int64_t seen,
                            const Tokens& tokens, Softmax<kTokens>& softmax) {
  const int64_t head_dim = arguments.head_dim;
  Scores<kTokens>(tokens, KeysOf(arguments, block, kv_head), head_dim,
                  arguments.scale, softmax);
  for (int64_t i = 0; i < kTokens; ++i) Exponentials(i, seen + i, softmax);
  const float* const values = ValuesOf(arguments, block, kv_head);
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

// The kTokens tokens of the item from `first` on.
template <int64_t kTokens>
void Attend(const AttentionArguments& arguments, const HeadItem& item,
            int64_t first) {
  const int64_t head_dim = arguments.head_dim;
  const int64_t kv_head = item.head / (arguments.heads / arguments.kv_heads);
  const Tokens tokens = {
      {item.q.floats() + first * item.q.stride, item.q.stride}, item.sums};
  std::memset(tokens.sums, 0, kTokens * head_dim * sizeof(float));
  Softmax<kTokens> softmax;
  std::memset(softmax.sums, 0, sizeof(softmax.sums));
  for (int64_t i = 0; i < kTokens; ++i) {
    softmax.maximum[i] = -std::numeric_limits<float>::infinity();
  }
  const int64_t position = item.tokens.position + first;
  const int64_t last = position + kTokens - 1;
  for (int64_t block = 0; block <= last / kBlockTokens; ++block) {
    AttendBlock<kTokens>(arguments, kv_head, item.tokens.blocks[block],
                         position + 1 - block * kBlockTokens, tokens, softmax);
  }
  const FloatTag tag;
  float* y = arguments.y.floats() +
             (item.tokens.token + first) * arguments.y.stride +
             item.head * head_dim;
  for (int64_t i = 0; i < kTokens; ++i, y += arguments.y.stride) {
    const FloatVector sum = Constant(SumOfBlock(softmax.sums[i]));
    const float* const sums = tokens.sums + i * head_dim;
    int64_t d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) {
      hn::StoreU(hn::Div(hn::LoadU(tag, sums + d), sum), tag, y + d);
    }
    if (d < head_dim) {
      const size_t rest = head_dim - d;
      StoreFirst(hn::Div(LoadFirst(sums + d, rest), sum), y + d, rest);
    }
  }
}

// Of `count` tokens, at most kTokens.
template <int64_t kTokens>
void AttendGroup(const AttentionArguments& arguments, const HeadItem& item,
                 int64_t first, int64_t count) {
  if (count == kTokens) return Attend<kTokens>(arguments, item, first);
  if constexpr (kTokens > 1) {
    AttendGroup<kTokens - 1>(arguments, item, first, count);
  }
}

void AttendItem(const AttentionArguments& arguments, const HeadItem& item) {
  for (int64_t first = 0; first < item.tokens.tokens; first += kTileTokens) {
    AttendGroup<kTileTokens>(arguments, item, first,
                             std::min(kTileTokens, item.tokens.tokens - first));
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

// Of one channel: what a row reads of each token that it sees, once, and what
// each of its tokens computes with that.
constexpr double kReadNs = 0.35;
constexpr double kComputeNs = 0.05;

int64_t GroupsOf(const Row& row) {
  return (row.tokens + kItemTokens - 1) / kItemTokens;
}

// Group `index` of all rows' groups.
TokenGroup GroupAt(const StepRows& step, int64_t index) {
  const absl::Span<const Row> rows = step.rows();
  size_t i = 0;
  for (; index >= GroupsOf(rows[i]); ++i) index -= GroupsOf(rows[i]);
  const int64_t first = index * kItemTokens;
  return {step.blocks(i).data(), rows[i].offset + first,
          rows[i].position + first,
          std::min(kItemTokens, rows[i].tokens - first)};
}

// Rotates one head by the angles whose cosines, and then sines, are `turns` [2,
// rotary_dim / 2].
void Rotate(const float* HWY_RESTRICT turns, int64_t rotary_dim,
            float* HWY_RESTRICT head) {
  const int64_t half = rotary_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float first = head[i], second = head[half + i];
    head[i] = first * turns[i] - second * turns[half + i];
    head[half + i] = second * turns[i] + first * turns[half + i];
  }
}

// Memory of the calling thread, kept for its next call: [elements].
float* Scratch(std::vector<float>& memory, int64_t elements) {
  if (static_cast<int64_t>(memory.size()) < elements) memory.resize(elements);
  return memory.data();
}

// Adds the keys, rotated, and values of a group's tokens to the blocks. Leaves
// the tokens' turns in `turns` [tokens, 2, rotary_dim / 2] of all rows.
void Append(const AttentionArguments& arguments, const TokenGroup& group,
            float* turns) {
  thread_local std::vector<float> memory;
  const int64_t head_dim = arguments.head_dim;
  const int64_t half = arguments.rotary_dim / 2;
  float* const key = Scratch(memory, head_dim);
  for (int64_t t = 0; t < group.tokens; ++t) {
    const int64_t token = group.token + t;
    const int64_t position = group.position + t;
    float* const turn = turns + token * arguments.rotary_dim;
    for (int64_t i = 0; i < half; ++i) {
      const double angle = position * arguments.frequencies[i];
      turn[i] = static_cast<float>(std::cos(angle));
      turn[half + i] = static_cast<float>(std::sin(angle));
    }
    const int32_t block = group.blocks[position / kBlockTokens];
    const int64_t place = position % kBlockTokens;
    const float* k = arguments.k.floats() + token * arguments.k.stride;
    const float* v = arguments.v.floats() + token * arguments.v.stride;
    for (int64_t head = 0; head < arguments.kv_heads; ++head) {
      std::memcpy(key, k + head * head_dim, head_dim * sizeof(float));
      Rotate(turn, arguments.rotary_dim, key);
      float* const keys = KeysOf(arguments, block, head) + place;
      for (int64_t d = 0; d < head_dim; ++d) keys[d * kBlockTokens] = key[d];
      std::memcpy(ValuesOf(arguments, block, head) + place * head_dim,
                  v + head * head_dim, head_dim * sizeof(float));
    }
  }
}

void Attend(const AttentionArguments& arguments, const TokenGroup& group,
            int64_t head, const float* turns) {
  thread_local std::vector<float> memory;
  const int64_t head_dim = arguments.head_dim;
  float* const q = Scratch(memory, 2 * kItemTokens * head_dim);
  HeadItem item = {group, head, {q, head_dim}, q + kItemTokens * head_dim};
  const float* source =
      arguments.q.floats() + group.token * arguments.q.stride + head * head_dim;
  if (arguments.rotary_dim == 0) {
    item.q = {source, arguments.q.stride};
  }
  for (int64_t t = 0; t < group.tokens && arguments.rotary_dim > 0; ++t) {
    std::memcpy(q + t * head_dim, source + t * arguments.q.stride,
                head_dim * sizeof(float));
    Rotate(turns + (group.token + t) * arguments.rotary_dim,
           arguments.rotary_dim, q + t * head_dim);
  }
  HWY_DYNAMIC_DISPATCH(AttendItem)(arguments, item);
}

}  // namespace

void Attention(ThreadPool& threads, const StepRows& step,
               const AttentionArguments& arguments) {
  int64_t groups = 0;
  double work_ns = 0;
  for (const Row& row : step.rows()) {
    groups += GroupsOf(row);
    const int64_t seen = row.position + row.tokens;
    work_ns += (kReadNs + kComputeNs * row.tokens) *
               static_cast<double>(seen * arguments.heads * arguments.head_dim);
  }
  thread_local std::vector<float> memory;
  float* const turns = Scratch(memory, step.tokens() * arguments.rotary_dim);
  const auto append = [&](int64_t group) {
    Append(arguments, GroupAt(step, group), turns);
  };
  // A head's groups one after the other find its keys and values in the cache.
  const auto attend = [&](int64_t item) {
    Attend(arguments, GroupAt(step, item % groups), item / groups, turns);
  };
  // All keys and values must be there before any token looks at them.
  threads.ParallelFor(groups, static_cast<int64_t>(work_ns) / 8, append);
  threads.ParallelFor(groups * arguments.heads, static_cast<int64_t>(work_ns),
                      attend);
}

}  // namespace engram::cpu
#endif  // HWY_ONCE

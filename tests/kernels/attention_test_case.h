// Sequences of attention for the tests of a back end.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {

struct AttentionShape {
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;
  // Query heads that share one head of keys and values; divides heads.
  int64_t sharing = 1;
  float scale = 0;  // 0: 1 / sqrt(head_dim)
  double rotary_base = 10000;

  int64_t kv_heads() const { return heads / sharing; }
  int64_t width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads() * head_dim; }
  int64_t BlockFloats() const { return 2 * kv_width() * kKeyValueBlockTokens; }
  // Heads of a width that kernels take by fours have their blocks where these
  // may: one behind the other, from an aligned address on.
  bool HasDenseBlocks() const { return head_dim % 4 == 0; }
  float Scale() const {
    return scale == 0 ? 1.0f / std::sqrt(static_cast<float>(head_dim)) : scale;
  }
  std::vector<double> Frequencies() const {
    std::vector<double> frequencies;
    for (int64_t i = 0; i < rotary_dim / 2; ++i) {
      frequencies.push_back(std::pow(rotary_base, -2.0 * i / rotary_dim));
    }
    return frequencies;
  }
};

// One sequence with its place in the blocks, fed by AttentionStep.
struct AttentionSequence {
  AttentionShape shape;
  Floats q;                     // [tokens, heads head_dim]
  Floats k, v;                  // [tokens, kv_heads head_dim]
  std::vector<int32_t> blocks;  // enough for all tokens
  int64_t position = 0;         // tokens fed
  Floats y;                     // [position, heads head_dim]

  AttentionSequence(const AttentionShape& shape, uint32_t seed, int64_t tokens,
                    std::vector<int32_t> blocks)
      : shape(shape),
        // Scores of several units: some tokens matter much more than others.
        q(RandomFloats(seed, tokens * shape.width(), -3.0f, 3.0f)),
        k(RandomFloats(seed + 1, tokens * shape.kv_width(), -3.0f, 3.0f)),
        v(RandomFloats(seed + 2, tokens * shape.kv_width())),
        blocks(std::move(blocks)) {}

  int64_t tokens() const {
    return static_cast<int64_t>(q.size()) / shape.width();
  }

  // Of all tokens.
  reference::Values Expected() const {
    reference::Values rotated_q = Widened(q), rotated_k = Widened(k);
    const reference::Values frequencies = shape.Frequencies();
    reference::RotateByPosition(shape.heads, shape.head_dim, frequencies, 0,
                                rotated_q);
    reference::RotateByPosition(shape.kv_heads(), shape.head_dim, frequencies,
                                0, rotated_k);
    return reference::Attention(shape.heads, shape.kv_heads(), shape.head_dim,
                                shape.Scale(), rotated_q, rotated_k,
                                Widened(v));
  }
};

struct SequenceTokens {
  AttentionSequence* sequence;
  int64_t tokens;  // its next ones
};

// Feeds all of these in one call, as rows. `blocks` [blocks, BlockFloats()] is
// updated. With `in_place`, y is q.
inline void AttentionStep(Backend& backend,
                          const std::vector<SequenceTokens>& fed,
                          Floats& blocks, bool in_place = false) {
  const AttentionShape& shape = fed[0].sequence->shape;
  const int64_t width = shape.width();
  const int64_t kv_width = shape.kv_width();
  Floats q, k, v;
  std::vector<SlotRow> rows;
  std::vector<absl::Span<const int32_t>> lists;
  for (const auto& [sequence, tokens] : fed) {
    rows.push_back({.slot = static_cast<int>(rows.size()),
                    .offset = static_cast<int>(q.size() / width),
                    .tokens = static_cast<int>(tokens),
                    .position = sequence->position});
    lists.push_back(sequence->blocks);
    const auto append = [&, first = sequence->position, count = tokens](
                            Floats& target, const Floats& source,
                            int64_t part_width) {
      const Floats part = Slice(source, first, count, part_width);
      target.insert(target.end(), part.begin(), part.end());
    };
    append(q, sequence->q, width);
    append(k, sequence->k, kv_width);
    append(v, sequence->v, kv_width);
  }
  const int64_t stride = WideStride(width);
  const int64_t kv_stride = WideStride(kv_width);
  DeviceFloats device_q(backend, ToWide(q, width));
  DeviceFloats device_k(backend, ToWide(k, kv_width));
  DeviceFloats device_v(backend, ToWide(v, kv_width));
  DeviceFloats device_y(backend, ToWide(Floats(q.size()), width));
  DeviceShares device_blocks(backend, blocks, shape.BlockFloats());
  DeviceFloats dense_blocks(backend, blocks);
  DeviceFloats& y = in_place ? device_q : device_y;
  const std::vector<double> frequencies = shape.Frequencies();
  const auto device_frequencies =
      backend.Allocate(frequencies.size() * sizeof(double));
  ENGRAM_CHECK_OK(device_frequencies.status());
  ENGRAM_CHECK_OK(backend.CopyFromHost((*device_frequencies)->data(),
                                       frequencies.data(),
                                       frequencies.size() * sizeof(double)));
  AttentionArguments arguments;
  arguments.heads = shape.heads;
  arguments.kv_heads = shape.kv_heads();
  arguments.scale = shape.Scale();
  arguments.head_dim = shape.head_dim;
  arguments.rotary_dim = shape.rotary_dim;
  arguments.frequencies =
      static_cast<const double*>((*device_frequencies)->data());
  arguments.q = {device_q.data() + kMargin, stride};
  arguments.k = {device_k.data() + kMargin, kv_stride};
  arguments.v = {device_v.data() + kMargin, kv_stride};
  arguments.blocks = shape.HasDenseBlocks()
                         ? LayerShares{dense_blocks.data(), shape.BlockFloats()}
                         : device_blocks.shares();
  arguments.y = {y.data() + kMargin, stride};
  backend.Attention(Prepare(backend, rows, lists), arguments);
  blocks =
      shape.HasDenseBlocks() ? dense_blocks.ToHost() : device_blocks.ToHost();
  const Floats all = FromWide(y.ToHost(), width);
  // Queries that are not written over, keys and values are left alone.
  if (!in_place) ExpectSameBits(FromWide(device_q.ToHost(), width), q);
  ExpectSameBits(FromWide(device_k.ToHost(), kv_width), k);
  ExpectSameBits(FromWide(device_v.ToHost(), kv_width), v);
  for (size_t i = 0; i < fed.size(); ++i) {
    const Floats part = Slice(all, rows[i].offset, rows[i].tokens, width);
    AttentionSequence& sequence = *fed[i].sequence;
    sequence.y.insert(sequence.y.end(), part.begin(), part.end());
    sequence.position += fed[i].tokens;
  }
}

}  // namespace engram

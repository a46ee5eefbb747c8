// Sequences of attention for the tests of a back end.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {

struct AttentionShape {
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;

  int64_t width() const { return heads * head_dim; }
  int64_t BlockFloats() const { return 2 * width() * kKeyValueBlockTokens; }
};

// One sequence with its place in the blocks, fed by AttentionStep.
struct AttentionSequence {
  AttentionShape shape;
  Floats q, k, v;               // [tokens, heads head_dim]
  std::vector<int32_t> blocks;  // enough for all tokens
  int64_t position = 0;         // tokens fed
  Floats y;                     // [position, heads head_dim]

  AttentionSequence(const AttentionShape& shape, uint32_t seed, int64_t tokens,
                    std::vector<int32_t> blocks)
      : shape(shape),
        // Scores of several units: some tokens matter much more than others.
        q(RandomFloats(seed, tokens * shape.width(), -3.0f, 3.0f)),
        k(RandomFloats(seed + 1, tokens * shape.width(), -3.0f, 3.0f)),
        v(RandomFloats(seed + 2, tokens * shape.width())),
        blocks(std::move(blocks)) {}

  int64_t tokens() const {
    return static_cast<int64_t>(q.size()) / shape.width();
  }

  // Of all tokens.
  reference::Values Expected() const {
    reference::Values rotated_q = Widened(q), rotated_k = Widened(k);
    reference::RotateByPosition(shape.heads, shape.head_dim, shape.rotary_dim,
                                0, rotated_q);
    reference::RotateByPosition(shape.heads, shape.head_dim, shape.rotary_dim,
                                0, rotated_k);
    return reference::Attention(shape.heads, shape.head_dim, rotated_q,
                                rotated_k, Widened(v));
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
  Floats q, k, v;
  std::vector<Row> rows;
  std::vector<RowHistory> histories;
  for (const auto& [sequence, tokens] : fed) {
    rows.push_back({static_cast<int>(rows.size()),
                    static_cast<int>(q.size() / width),
                    static_cast<int>(tokens)});
    histories.push_back({sequence->position, sequence->blocks});
    const auto append = [&, first = sequence->position, count = tokens](
                            Floats& target, const Floats& source) {
      const Floats part = Slice(source, first, count, width);
      target.insert(target.end(), part.begin(), part.end());
    };
    append(q, sequence->q);
    append(k, sequence->k);
    append(v, sequence->v);
  }
  const int64_t stride = WideStride(width);
  DeviceFloats device_q(backend, ToWide(q, width));
  DeviceFloats device_k(backend, ToWide(k, width));
  DeviceFloats device_v(backend, ToWide(v, width));
  DeviceFloats device_y(backend, ToWide(Floats(q.size()), width));
  DeviceFloats device_blocks(backend, blocks);
  DeviceFloats& y = in_place ? device_q : device_y;
  AttentionArguments arguments;
  arguments.heads = shape.heads;
  arguments.head_dim = shape.head_dim;
  arguments.rotary_dim = shape.rotary_dim;
  arguments.q = {device_q.data() + kMargin, stride};
  arguments.k = {device_k.data() + kMargin, stride};
  arguments.v = {device_v.data() + kMargin, stride};
  arguments.histories = histories;
  arguments.blocks = device_blocks.data();
  arguments.y = {y.data() + kMargin, stride};
  backend.Attention(rows, arguments);
  blocks = device_blocks.ToHost();
  const Floats all = FromWide(y.ToHost(), width);
  FromWide(device_q.ToHost(), width);  // only for what it expects
  FromWide(device_k.ToHost(), width);
  for (size_t i = 0; i < fed.size(); ++i) {
    const Floats part = Slice(all, rows[i].offset, rows[i].tokens, width);
    AttentionSequence& sequence = *fed[i].sequence;
    sequence.y.insert(sequence.y.end(), part.begin(), part.end());
    sequence.position += fed[i].tokens;
  }
}

}  // namespace engram

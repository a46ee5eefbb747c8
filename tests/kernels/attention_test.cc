// The contract of Attention.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "tests/kernels/attention_test_case.h"
#include "tests/kernels/backend_under_test.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

using AttentionTest = BackendUnderTestSuite;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kBlocks = 8;

// What memory holds before a sequence takes a block may be anything.
Floats UnusedBlocks(const AttentionShape& shape) {
  return Floats(kBlocks * shape.BlockFloats(), kNan);
}

// --- What is computed.

TEST_P(AttentionTest, IsRightForHeadsOfEveryWidth) {
  for (const int64_t head_dim : {1, 2, 7, 15, 16, 17, 32, 33, 64, 65, 128}) {
    for (const int64_t heads : {1, 3}) {
      SCOPED_TRACE(testing::Message() << heads << " heads of " << head_dim);
      const AttentionShape shape{heads, head_dim, 0};
      Floats blocks = UnusedBlocks(shape);
      AttentionSequence sequence(shape, 60, 70, {5, 0, 3});
      AttentionStep(backend(), {{&sequence, 70}}, blocks);
      ExpectClose(sequence.y, sequence.Expected());
    }
  }
}

TEST_P(AttentionTest, IsRightAroundTheEdgesOfBlocks) {
  const AttentionShape shape{2, 7, 4};
  for (const int64_t before : {0, 1, 30, 31, 32, 33, 63, 64, 65}) {
    for (const int64_t tokens : {1, 2, 3, 4, 5, 31, 32, 33}) {
      SCOPED_TRACE(testing::Message() << tokens << " behind " << before);
      Floats blocks = UnusedBlocks(shape);
      AttentionSequence sequence(shape, 60, before + tokens, {2, 7, 1, 4});
      if (before > 0) AttentionStep(backend(), {{&sequence, before}}, blocks);
      AttentionStep(backend(), {{&sequence, tokens}}, blocks);
      ExpectClose(sequence.y, sequence.Expected());
    }
  }
}

TEST_P(AttentionTest, RotatesTheLeadingDimensionsByPosition) {
  for (const int64_t rotary_dim : {2, 6, 16, 64}) {
    const AttentionShape shape{2, std::max<int64_t>(rotary_dim, 7), rotary_dim};
    Floats blocks = UnusedBlocks(shape);
    AttentionSequence sequence(shape, 60, 100, {2, 7, 1, 4});
    AttentionStep(backend(), {{&sequence, 100}}, blocks);
    ExpectClose(sequence.y, sequence.Expected());
    // A rotation that did nothing would show nothing.
    AttentionSequence still = sequence;
    still.shape.rotary_dim = 0;
    EXPECT_NE(still.Expected(), sequence.Expected());
  }
}

TEST_P(AttentionTest, RotatesByTheFrequenciesGiven) {
  AttentionShape shape{2, 8, 6};
  shape.rotary_base = 500;
  Floats blocks = UnusedBlocks(shape);
  AttentionSequence sequence(shape, 60, 50, {2, 7});
  AttentionStep(backend(), {{&sequence, 50}}, blocks);
  ExpectClose(sequence.y, sequence.Expected());
}

TEST_P(AttentionTest, ScalesTheScoresAsTold) {
  AttentionShape shape{2, 8, 0};
  shape.scale = 0.05f;
  Floats blocks = UnusedBlocks(shape);
  AttentionSequence sequence(shape, 60, 50, {2, 7});
  AttentionStep(backend(), {{&sequence, 50}}, blocks);
  ExpectClose(sequence.y, sequence.Expected());
}

TEST_P(AttentionTest, OfHeadsThatShareKeysAndValuesIsThatOfCopiesOfThem) {
  for (const int64_t sharing : {2, 3, 6}) {
    SCOPED_TRACE(testing::Message() << sharing << " share");
    const AttentionShape shape{6, 7, 4, sharing};
    const int64_t head_dim = shape.head_dim;
    AttentionSequence sequence(shape, 60, 70, {2, 7, 1});
    // The same with keys and values repeated for each head.
    AttentionSequence copies(AttentionShape{6, 7, 4}, 60, 70, {2, 7, 1});
    for (int64_t t = 0; t < 70; ++t) {
      for (int64_t i = 0; i < shape.width(); ++i) {
        const int64_t from = t * shape.kv_width() +
                             i / head_dim / sharing * head_dim + i % head_dim;
        copies.k[t * shape.width() + i] = sequence.k[from];
        copies.v[t * shape.width() + i] = sequence.v[from];
      }
    }
    Floats blocks = UnusedBlocks(shape);
    Floats copies_blocks = UnusedBlocks(copies.shape);
    for (const int64_t tokens : {37, 1, 32}) {
      AttentionStep(backend(), {{&sequence, tokens}}, blocks);
      AttentionStep(backend(), {{&copies, tokens}}, copies_blocks);
    }
    ExpectClose(sequence.y, sequence.Expected());
    ExpectSameBits(sequence.y, copies.y);
  }
}

TEST_P(AttentionTest, LaysOutKeysByTokenAndValuesByDimension) {
  const AttentionShape shape{2, 3, 0};
  Floats blocks = UnusedBlocks(shape);
  AttentionSequence sequence(shape, 60, 34, {6, 2});
  AttentionStep(backend(), {{&sequence, 33}}, blocks);
  AttentionStep(backend(), {{&sequence, 1}}, blocks);
  Floats expected = UnusedBlocks(shape);
  for (int64_t t = 0; t < 34; ++t) {
    float* const block = expected.data() + sequence.blocks[t / 32] * 2 * 6 * 32;
    for (int64_t head = 0; head < 2; ++head) {
      for (int64_t d = 0; d < 3; ++d) {
        const int64_t from = t * 6 + head * 3 + d;
        block[(head * 3 + d) * 32 + t % 32] = sequence.k[from];
        block[6 * 32 + (head * 32 + t % 32) * 3 + d] = sequence.v[from];
      }
    }
  }
  // Everything else is as it was.
  ExpectSameBits(blocks, expected);
}

TEST_P(AttentionTest, OfASingleTokenIsItsValue) {
  const AttentionShape shape{3, 5, 2};
  Floats blocks = UnusedBlocks(shape);
  AttentionSequence sequence(shape, 60, 1, {1});
  AttentionStep(backend(), {{&sequence, 1}}, blocks);
  ExpectSameBits(sequence.y, sequence.v);
}

TEST_P(AttentionTest, HoldsScoresOfAnySize) {
  const AttentionShape shape{1, 4, 0};
  Floats blocks = UnusedBlocks(shape);
  AttentionSequence sequence(shape, 60, 70, {1, 2, 3});
  // Scores up to thousands, where exp alone would overflow.
  for (float& q : sequence.q) q *= 1000.0f;
  AttentionStep(backend(), {{&sequence, 70}}, blocks);
  const reference::Values expected = sequence.Expected();
  for (size_t i = 0; i < expected.size(); ++i) {
    // A score of 1e4 is a multiple of 1e-3.
    EXPECT_NEAR(sequence.y[i], expected[i], 1e-2) << "at " << i;
  }
}

// --- What it doesn't depend on.

TEST_P(AttentionTest, InChunksIsTheSame) {
  for (const AttentionShape& shape :
       {AttentionShape{2, 7, 0}, AttentionShape{1, 16, 16},
        AttentionShape{3, 33, 10}, AttentionShape{4, 9, 4, 2},
        AttentionShape{4, 20, 4, 2}}) {
    Floats whole_blocks = UnusedBlocks(shape);
    AttentionSequence whole(shape, 60, 100, {3, 0, 6, 1});
    AttentionStep(backend(), {{&whole, 100}}, whole_blocks);
    for (const int64_t chunk : {1, 2, 3, 5, 31, 32, 33, 64}) {
      SCOPED_TRACE(testing::Message() << "chunks of " << chunk);
      Floats blocks = UnusedBlocks(shape);
      AttentionSequence sequence(shape, 60, 100, {3, 0, 6, 1});
      while (sequence.position < 100) {
        AttentionStep(backend(),
                      {{&sequence, std::min(chunk, 100 - sequence.position)}},
                      blocks);
      }
      ExpectSameBits(sequence.y, whole.y);
      ExpectSameBits(blocks, whole_blocks);
    }
  }
}

TEST_P(AttentionTest, OfARowDoesNotDependOnTheOthersNorOnItsBlocks) {
  // Enough work for several threads.
  for (const AttentionShape& shape :
       {AttentionShape{3, 33, 10}, AttentionShape{3, 36, 10}}) {
    std::vector<AttentionSequence> sequences = {{shape, 60, 65, {7, 2, 0}},
                                                {shape, 63, 37, {1, 4}},
                                                {shape, 66, 8, {5}}};
    Floats blocks = UnusedBlocks(shape);
    AttentionStep(backend(), {{&sequences[1], 36}}, blocks);
    AttentionStep(backend(),
                  {{&sequences[0], 64}, {&sequences[1], 1}, {&sequences[2], 7}},
                  blocks);
    AttentionStep(backend(), {{&sequences[2], 1}, {&sequences[0], 1}}, blocks);
    for (const AttentionSequence& sequence : sequences) {
      AttentionSequence alone = sequence;
      alone.y.clear();
      alone.position = 0;
      alone.blocks = {0, 1, 2};
      Floats alone_blocks = UnusedBlocks(shape);
      AttentionStep(backend(), {{&alone, alone.tokens()}}, alone_blocks);
      ExpectSameBits(sequence.y, alone.y);
    }
  }
}

TEST_P(AttentionTest, OfALongSequenceIsRightAndTheSameInChunks) {
  // Back ends may divide a history, by some hundred tokens or thousand.
  const AttentionShape shape{1, 3, 2};
  const int64_t tokens = 2080;
  const int32_t count = tokens / kKeyValueBlockTokens;
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < count; ++i) blocks.push_back(i * 7 % count);
  const Floats unused(count * shape.BlockFloats(), kNan);
  Floats whole_blocks = unused;
  AttentionSequence whole(shape, 60, tokens, blocks);
  AttentionStep(backend(), {{&whole, tokens}}, whole_blocks);
  ExpectClose(whole.y, whole.Expected());
  // Up to the first of these at once, and then in turn by one, two and five.
  for (const int64_t first : {250, 505, 1020, 2043}) {
    SCOPED_TRACE(testing::Message() << "from token " << first);
    Floats cut_blocks = unused;
    AttentionSequence cut(shape, 60, tokens, blocks);
    AttentionStep(backend(), {{&cut, first}}, cut_blocks);
    for (const int64_t chunk : {1, 2, 5, 1, 1, 2, 5, 1, 1, 2, 5, 1, 1}) {
      AttentionStep(backend(), {{&cut, chunk}}, cut_blocks);
    }
    ExpectSameBits(cut.y, Slice(whole.y, 0, cut.position, shape.width()));
  }
}

// What 8 sequences' keys and values are after these steps, each of one list of
// tokens (0 or 1) for the first so many sequences.
Floats BlocksAfter(Backend& backend, bool replayed,
                   const std::vector<std::vector<int>>& steps) {
  const AttentionShape shape{2, 5, 0};
  const int64_t count = 8, width = shape.width();
  DeviceFloats q(backend, RandomFloats(60, count * width));
  DeviceFloats k(backend, Floats(count * width));
  DeviceFloats v(backend, RandomFloats(61, count * width));
  DeviceFloats y(backend, Floats(count * width));
  DeviceFloats blocks(backend, Floats(count * shape.BlockFloats()));
  AttentionArguments arguments;
  arguments.heads = arguments.kv_heads = shape.heads;
  arguments.head_dim = shape.head_dim;
  arguments.scale = shape.Scale();
  arguments.q = {q.data(), width};
  arguments.k = {k.data(), width};
  arguments.v = {v.data(), width};
  arguments.y = {y.data(), width};
  arguments.blocks = {blocks.data(), shape.BlockFloats()};
  const std::vector<int32_t> ids = {0, 1, 2, 3, 4, 5, 6, 7};
  std::vector<int64_t> positions(count);
  uint32_t seed = 62;
  for (const std::vector<int>& step : steps) {
    const Floats keys = RandomFloats(seed++, count * width);
    ENGRAM_CHECK_OK(backend.CopyFromHost(k.data(), keys.data(),
                                         keys.size() * sizeof(float)));
    std::vector<SlotRow> rows;
    std::vector<absl::Span<const int32_t>> lists;
    int offset = 0;
    for (size_t i = 0; i < step.size(); ++i) {
      rows.push_back({.slot = static_cast<int>(i),
                      .offset = offset,
                      .tokens = step[i],
                      .position = positions[i]});
      lists.push_back(absl::MakeConstSpan(ids).subspan(i, 1));
      offset += step[i];
      positions[i] += step[i];
    }
    const StepRows& prepared = Prepare(backend, rows, lists);
    const auto attend = [&] { backend.Attention(prepared, arguments); };
    if (replayed) {
      backend.Replay(step.size(), attend);
    } else {
      attend();
    }
  }
  return blocks.ToHost();
}

TEST_P(AttentionTest, ReplayedLeavesAloneWhatHasNoRow) {
  // Rows come to have no token after the step that was remembered, between
  // steps of more rows.
  const std::vector<std::vector<int>> steps = {{1, 1, 1, 1},
                                               {1, 1, 1, 1},
                                               {0, 0, 1, 1, 1, 1, 1, 1},
                                               {1, 0, 1, 1},
                                               {0, 0, 0, 0, 0, 0, 0, 1},
                                               {0, 0, 1, 0}};
  ExpectSameBits(BlocksAfter(backend(), true, steps),
                 BlocksAfter(backend(), false, steps));
}

TEST_P(AttentionTest, MayTakeBlocksThatOthersHaveUsed) {
  const AttentionShape shape{2, 5, 0};
  Floats blocks = UnusedBlocks(shape);
  AttentionSequence earlier(shape, 70, 64, {2, 1});
  AttentionStep(backend(), {{&earlier, 64}}, blocks);
  AttentionSequence sequence(shape, 60, 40, {1, 2});
  AttentionStep(backend(), {{&sequence, 40}}, blocks);
  Floats fresh_blocks = UnusedBlocks(shape);
  AttentionSequence fresh(shape, 60, 40, {1, 2});
  AttentionStep(backend(), {{&fresh, 40}}, fresh_blocks);
  ExpectSameBits(sequence.y, fresh.y);
}

TEST_P(AttentionTest, MayWriteOverTheQueries) {
  for (const int64_t tokens : {1, 9, 70}) {
    const AttentionShape shape{2, 19, 4};
    AttentionSequence sequence(shape, 60, tokens, {0, 1, 2});
    AttentionSequence in_place = sequence;
    Floats blocks = UnusedBlocks(shape), blocks_in_place = blocks;
    AttentionStep(backend(), {{&sequence, tokens}}, blocks);
    AttentionStep(backend(), {{&in_place, tokens}}, blocks_in_place, true);
    ExpectSameBits(in_place.y, sequence.y);
    ExpectSameBits(blocks_in_place, blocks);
  }
}

TEST_P(AttentionTest, NanInATokenReachesOnlyItsHeadAndThoseBehind) {
  const AttentionShape shape{3, 5, 0};
  AttentionSequence clean(shape, 60, 50, {0, 1});
  for (const bool in_value : {false, true}) {
    AttentionSequence sequence = clean, expected = clean;
    (in_value ? sequence.v : sequence.k)[43 * 15 + 7] = kNan;  // head 1
    Floats blocks = UnusedBlocks(shape), clean_blocks = blocks;
    AttentionStep(backend(), {{&expected, 50}}, clean_blocks);
    AttentionStep(backend(), {{&sequence, 50}}, blocks);
    for (int64_t t = 0; t < 50; ++t) {
      for (int64_t i = 0; i < 15; ++i) {
        const bool hit = t >= 43 && (in_value ? i == 7 : i / 5 == 1);
        const float y = sequence.y[t * 15 + i];
        EXPECT_EQ(std::isnan(y), hit) << "token " << t << ", " << i;
        if (!hit) {
          EXPECT_EQ(y, expected.y[t * 15 + i]);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, AttentionTest,
                         ::testing::ValuesIn(BackendsUnderTest()),
                         [](const auto& info) { return info.param.name; });

#if HWY_ARCH_X86
TEST(CpuAttention, GivesTheSameBitsWithAvx2AndAvx512) {
  UseCpuTargets(0);
  if ((hwy::SupportedTargets() & HWY_AVX3) == 0) GTEST_SKIP() << "no AVX-512";
  auto backend = MakeBackend({BackendKind::kCpu, 1});
  ENGRAM_CHECK_OK(backend.status());
  const AttentionShape shape{2, 43, 12};
  AttentionSequence wide(shape, 60, 100, {0, 1, 2, 3}), narrow = wide;
  Floats wide_blocks = UnusedBlocks(shape), narrow_blocks = wide_blocks;
  UseCpuTargets(HWY_AVX3);
  AttentionStep(**backend, {{&wide, 100}}, wide_blocks);
  UseCpuTargets(HWY_AVX2);
  AttentionStep(**backend, {{&narrow, 100}}, narrow_blocks);
  ExpectSameBits(narrow.y, wide.y);
  ExpectSameBits(narrow_blocks, wide_blocks);
  UseCpuTargets(0);
}
#endif

TEST(CpuAttentionDeathTest, TooFewBlocksStopTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto backend = MakeBackend({BackendKind::kCpu, 1});
  ENGRAM_CHECK_OK(backend.status());
  const AttentionShape shape{1, 2, 0};
  AttentionSequence sequence(shape, 60, 33, {0});
  Floats blocks = UnusedBlocks(shape);
  EXPECT_DEATH(AttentionStep(**backend, {{&sequence, 33}}, blocks),
               "broken invariant");
}

}  // namespace
}  // namespace engram

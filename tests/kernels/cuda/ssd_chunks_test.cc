// SsdScan on CUDA, of rows that hold whole chunks of their sequence: as the
// recurrence within rounding, in bits by which chunks were fed at once; and
// with DeviceOptions::deterministic by nothing but the tokens.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/row_chunks.h"
#include "kernels/status.h"
#include "tests/kernels/kernel_test_case.h"
#include "tests/support/forwarding_backend.h"

namespace engram {
namespace {

using cuda::kChunkTokens;

class SsdChunksTest : public ::testing::Test {
 protected:
  static std::unique_ptr<Backend> Make(const DeviceOptions& options) {
    auto backend = MakeCudaBackend(options);
    ENGRAM_CHECK_OK(backend.status());
    return *std::move(backend);
  }

  // Feeds `scan` as one sequence from `position` on, in rows of the given
  // tokens. `state` before and behind it; returns y.
  static Floats Feed(Backend& backend, const SsdScanCase& scan,
                     int64_t position, const std::vector<int>& rows,
                     Floats& state) {
    Floats y;
    int first = 0;
    for (const int tokens : rows) {
      const SlotRow row = {0, 0, tokens, -1, position + first};
      const Floats part = scan.Part(first, tokens).Run(backend, {row}, state);
      y.insert(y.end(), part.begin(), part.end());
      first += tokens;
    }
    return y;
  }

  Backend& backend() { return *backend_; }
  Backend& deterministic() { return *deterministic_; }

 private:
  const std::unique_ptr<Backend> backend_ = Make({});
  const std::unique_ptr<Backend> deterministic_ = Make({.deterministic = true});
};

// Differences as parts of the root of the mean of the expected squares: at most
// what prefill may differ from steps by, and a tenth of it on the whole.
void ExpectCloseToReference(const Floats& actual,
                            const reference::Values& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  if (expected.empty()) return;
  double squares = 0, wrong = 0, largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::abs(actual[i] - expected[i]);
    squares += expected[i] * expected[i];
    wrong += difference * difference;
    largest = std::max(largest, difference);
  }
  const double count = static_cast<double>(actual.size());
  // Where nothing is left, of a thousandth.
  const double scale = std::sqrt(squares / count + 1e-6);
  EXPECT_LE(largest, 1e-4 * scale);
  EXPECT_LE(std::sqrt(wrong / count), 1e-5 * scale);
}

// Rows of one step: head, chunks and tail; less than a chunk around a border;
// whole chunks only, into another slot; none, into another slot.
void ExpectRaggedScanIsRight(Backend& backend, const SsdScanCase& scan) {
  SCOPED_TRACE(testing::Message()
               << scan.heads << " heads of " << scan.head_dim << " x "
               << scan.d_state << ", " << scan.groups << " groups");
  const std::vector<SlotRow> rows = {{3, 0, 146, -1, 57},
                                     {0, 146, 100, -1, 20},
                                     {1, 246, 64, 4, 128},
                                     {2, 310, 0, 5, 64},
                                     {6, 310, 1, -1, 64}};
  ASSERT_EQ(scan.tokens, 311);
  const int64_t state_floats = scan.StateFloats();
  const Floats before = RandomFloats(6, 7 * state_floats);
  Floats states = before;
  const Floats y = scan.Run(backend, rows, states);
  for (const SlotRow& row : rows) {
    reference::Values state = Widened(Slice(before, row.slot, 1, state_floats));
    const reference::Values expected =
        scan.Part(row.offset, row.tokens).Expected(state);
    ExpectCloseToReference(Slice(y, row.offset, row.tokens, scan.d_inner()),
                           expected);
    ExpectCloseToReference(Slice(states, row.out(), 1, state_floats), state);
    if (row.out() != row.slot) {
      ExpectSameBits(Slice(states, row.slot, 1, state_floats),
                     Slice(before, row.slot, 1, state_floats));
    }
  }
}

TEST_F(SsdChunksTest, AreRightForHeadsOfEveryWidth) {
  for (const auto& [heads, groups, head_dim, d_state] :
       {std::tuple{2, 1, 1, 1}, std::tuple{3, 3, 33, 5},
        std::tuple{4, 2, 16, 16}, std::tuple{2, 2, 31, 36},
        std::tuple{1, 1, 64, 128}}) {
    ExpectRaggedScanIsRight(backend(),
                            SsdScanCase(heads, groups, head_dim, d_state, 311));
  }
}

TEST_F(SsdChunksTest, MoreStatesThanThereIsRoomForAreStepped) {
  ExpectRaggedScanIsRight(backend(), SsdScanCase(1, 1, 3, 130, 311));
}

TEST_F(SsdChunksTest, ClampDelta) {
  SsdScanCase scan(2, 1, 5, 4, 311);
  scan.dt_min = 0.3f;
  scan.dt_max = 0.9f;
  ExpectRaggedScanIsRight(backend(), scan);
}

TEST_F(SsdChunksTest, HoldForHeadsThatForgetAtOnceAndForThoseThatNeverDo) {
  SsdScanCase scan(4, 1, 8, 16, 311);
  scan.a = {-3e4f, -30.0f, -1e-6f, -1.0f};
  // Now and then a token is loud, and one lets nothing through. What comes in
  // between stays a while even with the head that forgets those at once.
  for (int64_t t = 0; t < scan.tokens; ++t) {
    float* const dt = &scan.dt[t * scan.heads];
    dt[0] = -11.0f;
    for (int64_t head = 0; head < scan.heads; ++head) {
      if (t % 20 == 2) dt[head] = -90.0f;
      if (t % 20 == 4) dt[head] = 40.0f;
    }
  }
  ExpectRaggedScanIsRight(backend(), scan);
}

TEST_F(SsdChunksTest, CutsAtBordersChangeNoBit) {
  const SsdScanCase scan(2, 1, 24, 20, 300);
  const Floats before = RandomFloats(6, scan.StateFloats());
  for (const int head : {0, 7}) {
    const int64_t position = head == 0 ? 128 : kChunkTokens - head;
    const int rest = 300 - head - 3 * kChunkTokens;
    Floats whole_state = before;
    const Floats whole = Feed(backend(), scan, position, {300}, whole_state);
    for (const std::vector<int>& rows :
         {std::vector<int>{head + 64, 64, 64, rest},
          std::vector<int>{head + 128, 64 + rest},
          std::vector<int>{head, 192, rest}}) {
      Floats state = before;
      ExpectSameBits(Feed(backend(), scan, position, rows, state), whole);
      ExpectSameBits(state, whole_state);
    }
    // Where that is worth a word.
    Floats state = before;
    EXPECT_NE(Feed(backend(), scan, position, {head + 32, 268 - head}, state),
              whole);
  }
}

TEST_F(SsdChunksTest, TokensAroundChunksAreStepped) {
  const SsdScanCase scan(2, 1, 24, 20, 100);
  const Floats before = RandomFloats(6, scan.StateFloats());
  Floats state = before;
  Floats stepped_state = before;
  const Floats y = Feed(backend(), scan, 60, {100}, state);
  // 4 before the border, 64 of the chunk, 32 behind it.
  const Floats head =
      Feed(deterministic(), scan.Part(0, 4), 60, {1, 3}, stepped_state);
  ExpectSameBits(Slice(y, 0, 4, scan.d_inner()), head);
  const SsdScanCase chunk = scan.Part(4, 64);
  ExpectSameBits(Slice(y, 4, 64, scan.d_inner()),
                 Feed(backend(), chunk, 64, {64}, stepped_state));
  ExpectSameBits(
      Slice(y, 68, 32, scan.d_inner()),
      Feed(deterministic(), scan.Part(68, 32), 128, {31, 1}, stepped_state));
  ExpectSameBits(state, stepped_state);
}

TEST_F(SsdChunksTest, OfARowDoNotDependOnTheOthers) {
  const SsdScanCase scan(2, 2, 33, 16, 311);
  const std::vector<SlotRow> rows = {{1, 0, 1, -1, 5},
                                     {3, 1, 130, -1, 0},
                                     {0, 131, 70, 2, 62},
                                     {4, 201, 110, -1, 64}};
  const int64_t state_floats = scan.StateFloats();
  const Floats before = RandomFloats(6, 5 * state_floats);
  Floats states = before;
  const Floats together = scan.Run(backend(), rows, states);
  for (const SlotRow& row : rows) {
    Floats state = Slice(before, row.slot, 1, state_floats);
    ExpectSameBits(Slice(together, row.offset, row.tokens, scan.d_inner()),
                   Feed(backend(), scan.Part(row.offset, row.tokens),
                        row.position, {row.tokens}, state));
    ExpectSameBits(Slice(states, row.out(), 1, state_floats), state);
  }
}

TEST_F(SsdChunksTest, MayWriteOverTheirInputAndHaveStatesAtAnyAddress) {
  for (const int64_t head_dim : {32, 37}) {
    SsdScanCase scan(2, 1, head_dim, 16, 140);
    const std::vector<SlotRow> rows = {{0, 0, 140, 1}};
    const Floats before = RandomFloats(6, 2 * scan.StateFloats());
    Floats states = before, in_place = before, dense = before;
    const Floats y = scan.Run(backend(), rows, states);
    ExpectSameBits(scan.Run(backend(), rows, in_place, true), y);
    ExpectSameBits(in_place, states);
    scan.dense_states = true;
    ExpectSameBits(scan.Run(backend(), rows, dense), y);
    ExpectSameBits(dense, states);
  }
}

TEST_F(SsdChunksTest, NanInOneHeadLeavesTheOthersAndEarlierChunksAlone) {
  SsdScanCase scan(3, 1, 5, 4, 192);
  Floats state(scan.StateFloats()), broken_state = state;
  const Floats clean = Feed(backend(), scan, 0, {192}, state);
  scan.dt[70 * 3 + 1] = std::numeric_limits<float>::quiet_NaN();
  const Floats y = Feed(backend(), scan, 0, {192}, broken_state);
  for (size_t i = 0; i < y.size(); ++i) {
    if (i % 15 / 5 == 1 && i >= 64 * 15) {
      EXPECT_TRUE(i < 70 * 15 || std::isnan(y[i])) << "at " << i;
    } else {
      EXPECT_EQ(y[i], clean[i]) << "at " << i;
    }
  }
}

TEST_F(SsdChunksTest, AreSteppedWhereEveryCutIsToBeTheSame) {
  const SsdScanCase scan(2, 1, 24, 20, 200);
  const Floats before = RandomFloats(6, scan.StateFloats());
  Floats whole_state = before;
  const Floats whole = Feed(deterministic(), scan, 0, {200}, whole_state);
  for (const std::vector<int>& rows :
       {std::vector<int>{64, 136}, std::vector<int>{1, 198, 1},
        std::vector<int>(200, 1)}) {
    Floats state = before;
    ExpectSameBits(Feed(deterministic(), scan, 0, rows, state), whole);
    ExpectSameBits(state, whole_state);
  }
  EXPECT_EQ(backend().ssd_chunk_tokens(), kChunkTokens);
  EXPECT_EQ(deterministic().ssd_chunk_tokens(), 1);
  EXPECT_EQ(ForwardingBackend(&backend()).ssd_chunk_tokens(), kChunkTokens);
}

}  // namespace
}  // namespace engram

// The contract of the recurrent operations of H3 and S4D, ShiftMultiply and
// DiagonalScan.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "tests/kernels/backend_under_test.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

using ShiftMultiplyTest = BackendUnderTestSuite;
using DiagonalScanTest = BackendUnderTestSuite;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Rows shorter and longer than a register tile and than the shift's state, out
// of the order of their slots; slot 1 has none.
const std::vector<SlotRow> kRaggedRows = {{2, 0, 1}, {0, 1, 9}, {3, 10, 81}};
constexpr int64_t kRaggedTokens = 91;
constexpr int64_t kSlots = 4;

// Both cases have the same form.
template <class Case>
void ExpectRaggedRowsAreRight(Backend& backend, const Case& ragged,
                              double state_scale) {
  const int64_t state_floats = ragged.StateFloats();
  const Floats before = RandomFloats(6, kSlots * state_floats);
  Floats states = before;
  const Floats y = ragged.Run(backend, kRaggedRows, states);
  for (const SlotRow& row : kRaggedRows) {
    reference::Values state = Widened(Slice(before, row.slot, 1, state_floats));
    const reference::Values expected =
        ragged.Part(row.offset, row.tokens).Expected(state);
    ExpectClose(Slice(y, row.offset, row.tokens, ragged.channels), expected);
    ExpectClose(Slice(states, row.slot, 1, state_floats), state, state_scale);
  }
  ExpectSameBits(Slice(states, 1, 1, state_floats),
                 Slice(before, 1, 1, state_floats));
}

template <class Case>
void ExpectTheSameInChunks(Backend& backend, const Case& whole_case) {
  const int tokens = static_cast<int>(whole_case.tokens);
  Floats whole_state(whole_case.StateFloats(), 0.5f);
  const Floats whole = whole_case.Run(
      backend, std::vector<SlotRow>{{0, 0, tokens}}, whole_state);
  for (const int chunk : {1, 2, 3, 7, 8, 9, 63, 64, 65, 128, 130}) {
    SCOPED_TRACE(testing::Message() << "chunks of " << chunk);
    Floats state(whole_case.StateFloats(), 0.5f);
    Floats y;
    for (int first = 0; first < tokens; first += chunk) {
      const int count = std::min(chunk, tokens - first);
      const Floats part =
          whole_case.Part(first, count)
              .Run(backend, std::vector<SlotRow>{{0, 0, count}}, state);
      y.insert(y.end(), part.begin(), part.end());
    }
    ExpectSameBits(y, whole);
    ExpectSameBits(state, whole_state);
  }
}

template <class Case>
void ExpectRowsDoNotDependOnTheOthers(Backend& backend, const Case& all) {
  const int64_t state_floats = all.StateFloats();
  const Floats before = RandomFloats(6, kSlots * state_floats);
  Floats states = before;
  const Floats together = all.Run(backend, kRaggedRows, states);
  for (const SlotRow& row : kRaggedRows) {
    Floats state = Slice(before, row.slot, 1, state_floats);
    const Floats alone =
        all.Part(row.offset, row.tokens)
            .Run(backend, std::vector<SlotRow>{{0, 0, row.tokens}}, state);
    ExpectSameBits(Slice(together, row.offset, row.tokens, all.channels),
                   alone);
    ExpectSameBits(Slice(states, row.slot, 1, state_floats), state);
  }
}

template <class Case>
void ExpectMayWriteOverItsInput(Backend& backend, const Case& all) {
  const std::vector<SlotRow> rows = {{0, 0, static_cast<int>(all.tokens)}};
  Floats state(all.StateFloats()), state_in_place = state;
  const Floats y = all.Run(backend, rows, state);
  ExpectSameBits(all.Run(backend, rows, state_in_place, true), y);
  ExpectSameBits(state_in_place, state);
}

// --- ShiftMultiply.

TEST_P(ShiftMultiplyTest, IsRightForEveryWidthAndNumberOfTaps) {
  for (const int64_t channels : kEdgeSizes) {
    for (const int64_t taps : {1, 2, 8, 9, 64}) {
      SCOPED_TRACE(testing::Message() << channels << " x " << taps);
      // The state is a copy of inputs.
      ExpectRaggedRowsAreRight(
          backend(), ShiftMultiplyCase(channels, taps, kRaggedTokens), 0.0);
    }
  }
}

TEST_P(ShiftMultiplyTest, InChunksIsTheSame) {
  for (const int64_t channels : {3, 16, 67}) {
    for (const int64_t taps : {1, 2, 8, 64}) {
      ExpectTheSameInChunks(backend(), ShiftMultiplyCase(channels, taps, 140));
    }
  }
}

TEST_P(ShiftMultiplyTest, OfARowDoesNotDependOnTheOthers) {
  // Enough work for several threads.
  ExpectRowsDoNotDependOnTheOthers(backend(),
                                   ShiftMultiplyCase(150, 64, kRaggedTokens));
}

TEST_P(ShiftMultiplyTest, MayWriteOverItsInput) {
  for (const int64_t tokens : {1, 9, 70}) {
    ExpectMayWriteOverItsInput(backend(), ShiftMultiplyCase(67, 8, tokens));
  }
}

TEST_P(ShiftMultiplyTest, ForgetsAnInputAfterItsTaps) {
  ShiftMultiplyCase clean(5, 8, 20);
  ShiftMultiplyCase marked = clean;
  marked.k[3 * 5 + 2] = kNan;
  const std::vector<SlotRow> rows = {{0, 0, 20}};
  Floats clean_state(clean.StateFloats()), marked_state = clean_state;
  const Floats expected = clean.Run(backend(), rows, clean_state);
  const Floats p = marked.Run(backend(), rows, marked_state);
  for (int64_t t = 0; t < 20; ++t) {
    for (int64_t e = 0; e < 5; ++e) {
      if (e == 2 && t >= 3 && t < 3 + 8) {
        EXPECT_TRUE(std::isnan(p[t * 5 + e]));
      } else {
        EXPECT_EQ(p[t * 5 + e], expected[t * 5 + e]);
      }
    }
  }
  ExpectSameBits(marked_state, clean_state);
}

// --- DiagonalScan.

TEST_P(DiagonalScanTest, IsRightForEveryWidthAndNumberOfPairs) {
  for (const int64_t channels : kEdgeSizes) {
    for (const int64_t pairs : {1, 3, 5, 32, 33}) {
      SCOPED_TRACE(testing::Message() << channels << " x " << pairs);
      ExpectRaggedRowsAreRight(
          backend(), DiagonalScanCase(channels, pairs, kRaggedTokens), 1.0);
    }
  }
}

TEST_P(DiagonalScanTest, AppliesEveryActivationBeforeTheGate) {
  for (const Activation activation :
       {Activation::kNone, Activation::kSilu, Activation::kGelu,
        Activation::kGeluTanh}) {
    for (const bool gated : {true, false}) {
      SCOPED_TRACE(testing::Message()
                   << "activation " << static_cast<int>(activation)
                   << (gated ? ", gated" : ""));
      DiagonalScanCase scan(19, 4, kRaggedTokens);
      scan.activation = activation;
      if (!gated) scan.gate.clear();
      ExpectRaggedRowsAreRight(backend(), scan, 1.0);
    }
  }
}

TEST_P(DiagonalScanTest, RotatesAStateThatDoesNotDecay) {
  // A decay of i: four steps bring every state back.
  DiagonalScanCase scan(17, 3, 4);
  scan.p.assign(scan.p.size(), 0.0f);
  for (int64_t n = 0; n < 3; ++n) {
    std::fill_n(scan.decay.begin() + n * 2 * 17, 17, 0.0f);
    std::fill_n(scan.decay.begin() + (n * 2 + 1) * 17, 17, 1.0f);
  }
  const Floats before = RandomFloats(6, scan.StateFloats());
  Floats state = before;
  scan.Run(backend(), std::vector<SlotRow>{{0, 0, 4}}, state);
  EXPECT_EQ(state, before);
}

TEST_P(DiagonalScanTest, InChunksIsTheSame) {
  for (const int64_t channels : {3, 16, 67}) {
    for (const int64_t pairs : {1, 6, 32, 35}) {
      ExpectTheSameInChunks(backend(), DiagonalScanCase(channels, pairs, 300));
    }
  }
}

TEST_P(DiagonalScanTest, OfARowDoesNotDependOnTheOthers) {
  // Enough work for several threads.
  ExpectRowsDoNotDependOnTheOthers(backend(),
                                   DiagonalScanCase(150, 7, kRaggedTokens));
}

TEST_P(DiagonalScanTest, MayWriteOverItsInput) {
  for (const int64_t tokens : {1, 9, 150}) {
    ExpectMayWriteOverItsInput(backend(), DiagonalScanCase(67, 5, tokens));
  }
}

TEST_P(DiagonalScanTest, NanInOneChannelLeavesTheOthersAlone) {
  DiagonalScanCase scan(19, 4, 10);
  const std::vector<SlotRow> rows = {{0, 0, 4}, {1, 4, 6}};
  Floats clean_states(2 * scan.StateFloats()), states = clean_states;
  const Floats clean = scan.Run(backend(), rows, clean_states);
  scan.p[6 * 19 + 17] = kNan;
  const Floats y = scan.Run(backend(), rows, states);
  for (size_t i = 0; i < y.size(); ++i) {
    const bool hit = i >= 6 * 19 && i % 19 == 17;
    EXPECT_EQ(std::isnan(y[i]), hit) << "at " << i;
    if (!hit) {
      EXPECT_EQ(y[i], clean[i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ShiftMultiplyTest,
                         ::testing::ValuesIn(BackendsUnderTest()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(All, DiagonalScanTest,
                         ::testing::ValuesIn(BackendsUnderTest()),
                         [](const auto& info) { return info.param.name; });

#if HWY_ARCH_X86
TEST(CpuDiagonalScan, GivesTheSameBitsWithAvx2AndAvx512) {
  UseCpuTargets(0);
  if ((hwy::SupportedTargets() & HWY_AVX3) == 0) GTEST_SKIP() << "no AVX-512";
  auto backend = MakeBackend({BackendKind::kCpu, 1});
  ENGRAM_CHECK_OK(backend.status());
  const ShiftMultiplyCase shift(43, 64, 140);
  DiagonalScanCase scan(43, 7, 140);
  const std::vector<SlotRow> rows = {{0, 0, 140}};
  for (const Activation activation :
       {Activation::kNone, Activation::kGelu, Activation::kGeluTanh}) {
    scan.activation = activation;
    Floats wide_kept(shift.StateFloats()), narrow_kept = wide_kept;
    Floats wide_state(scan.StateFloats()), narrow_state = wide_state;
    UseCpuTargets(HWY_AVX3);
    const Floats wide_p = shift.Run(**backend, rows, wide_kept);
    const Floats wide_y = scan.Run(**backend, rows, wide_state);
    UseCpuTargets(HWY_AVX2);
    ExpectSameBits(shift.Run(**backend, rows, narrow_kept), wide_p);
    ExpectSameBits(narrow_kept, wide_kept);
    ExpectSameBits(scan.Run(**backend, rows, narrow_state), wide_y);
    ExpectSameBits(narrow_state, wide_state);
  }
  UseCpuTargets(0);
}
#endif

}  // namespace
}  // namespace engram

// The contract of Mamba-2's two operations, SsdScan and GatedNorm.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "tests/kernels/backend_under_test.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

using SsdScanTest = BackendUnderTestSuite;
using GatedNormTest = BackendUnderTestSuite;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Rows with 1, 2 and 9 tokens, out of the order of their slots; slot 1 has
// none.
const std::vector<SlotRow> kRaggedRows = {{2, 0, 1}, {0, 1, 2}, {3, 3, 9}};

void ExpectRaggedScanIsRight(Backend& backend, const SsdScanCase& scan) {
  SCOPED_TRACE(testing::Message()
               << scan.heads << " heads of " << scan.head_dim << " x "
               << scan.d_state << ", " << scan.groups << " groups");
  const int64_t state_floats = scan.StateFloats();
  const Floats before = RandomFloats(6, 4 * state_floats);
  Floats states = before;
  const Floats y = scan.Run(backend, kRaggedRows, states);
  for (const SlotRow& row : kRaggedRows) {
    reference::Values state = Widened(Slice(before, row.slot, 1, state_floats));
    const reference::Values expected =
        scan.Part(row.offset, row.tokens).Expected(state);
    // A sum of d_state terms, each as large as a state.
    const double scale = std::max(1.0, std::sqrt(scan.d_state) / 4);
    ExpectClose(Slice(y, row.offset, row.tokens, scan.d_inner()), expected,
                scale);
    ExpectClose(Slice(states, row.slot, 1, state_floats), state);
  }
  ExpectSameBits(Slice(states, 1, 1, state_floats),
                 Slice(before, 1, 1, state_floats));
}

TEST_P(SsdScanTest, IsRightForHeadsOfEveryWidth) {
  for (const int64_t head_dim : kEdgeSizes) {
    for (const int64_t d_state : {1, 5, 16}) {
      ExpectRaggedScanIsRight(backend(),
                              SsdScanCase(3, 1, head_dim, d_state, 12));
    }
  }
}

TEST_P(SsdScanTest, IsRightForEveryNumberOfHeadsAndGroups) {
  for (const int64_t groups : {1, 2, 3}) {
    for (const int64_t heads_of_a_group : {1, 2, 5}) {
      ExpectRaggedScanIsRight(
          backend(), SsdScanCase(groups * heads_of_a_group, groups, 7, 6, 12));
    }
  }
}

TEST_P(SsdScanTest, IsRightForTheUsualShape) {
  ExpectRaggedScanIsRight(backend(), SsdScanCase(4, 1, 64, 128, 12));
  ExpectRaggedScanIsRight(backend(), SsdScanCase(4, 2, 64, 129, 12));
}

TEST_P(SsdScanTest, ClampsDelta) {
  SsdScanCase scan(3, 1, 5, 4, 12);
  scan.dt_min = 0.3f;
  scan.dt_max = 0.9f;
  ExpectRaggedScanIsRight(backend(), scan);
  // A clamp that never moves delta would show nothing.
  Floats states(scan.StateFloats()), unclamped_states = states;
  const std::vector<SlotRow> rows = {{0, 0, 12}};
  const Floats y = scan.Run(backend(), rows, states);
  scan.dt_min = 0.0f;
  scan.dt_max = std::numeric_limits<float>::infinity();
  EXPECT_NE(scan.Run(backend(), rows, unclamped_states), y);
}

TEST_P(SsdScanTest, InChunksIsTheSame) {
  for (const auto& [head_dim, d_state] :
       {std::pair{3, 9}, std::pair{16, 9}, std::pair{67, 9},
        std::pair{5, 130}}) {
    const int tokens = 13;
    const SsdScanCase scan(4, 2, head_dim, d_state, tokens);
    Floats whole_state(scan.StateFloats(), 0.5f);
    const Floats whole =
        scan.Run(backend(), std::vector<SlotRow>{{0, 0, tokens}}, whole_state);
    for (int chunk = 1; chunk < tokens; ++chunk) {
      Floats state(scan.StateFloats(), 0.5f);
      Floats y;
      for (int first = 0; first < tokens; first += chunk) {
        const int count = std::min(chunk, tokens - first);
        const Floats part =
            scan.Part(first, count)
                .Run(backend(), std::vector<SlotRow>{{0, 0, count}}, state);
        y.insert(y.end(), part.begin(), part.end());
      }
      ExpectSameBits(y, whole);
      ExpectSameBits(state, whole_state);
    }
  }
}

TEST_P(SsdScanTest, OfARowDoesNotDependOnTheOthers) {
  // Enough work for several threads.
  const SsdScanCase scan(6, 2, 33, 16, 40);
  const std::vector<SlotRow> rows = {
      {1, 0, 1}, {4, 1, 30}, {0, 31, 2}, {2, 33, 7}};
  const int64_t state_floats = scan.StateFloats();
  const Floats before = RandomFloats(6, 5 * state_floats);
  Floats states = before;
  const Floats together = scan.Run(backend(), rows, states);
  for (const SlotRow& row : rows) {
    Floats state = Slice(before, row.slot, 1, state_floats);
    const Floats alone =
        scan.Part(row.offset, row.tokens)
            .Run(backend(), std::vector<SlotRow>{{0, 0, row.tokens}}, state);
    ExpectSameBits(Slice(together, row.offset, row.tokens, scan.d_inner()),
                   alone);
    ExpectSameBits(Slice(states, row.slot, 1, state_floats), state);
  }
}

TEST_P(SsdScanTest, MayWriteOverItsInput) {
  for (const int tokens : {1, 9}) {
    const SsdScanCase scan(3, 1, 37, 8, tokens);
    const std::vector<SlotRow> rows = {{0, 0, tokens}};
    Floats state(scan.StateFloats()), state_in_place = state;
    const Floats y = scan.Run(backend(), rows, state);
    ExpectSameBits(scan.Run(backend(), rows, state_in_place, true), y);
    ExpectSameBits(state_in_place, state);
  }
}

TEST_P(SsdScanTest, StatesMayLieAtAnyAddress) {
  for (const int64_t head_dim : {64, 38, 9}) {
    for (const int tokens : {1, 11}) {
      SsdScanCase scan(3, 1, head_dim, 20, tokens);
      const std::vector<SlotRow> rows = {{0, 0, tokens, 1}};
      Floats states = RandomFloats(6, 2 * scan.StateFloats());
      Floats dense = states;
      const Floats y = scan.Run(backend(), rows, states);
      scan.dense_states = true;
      ExpectSameBits(scan.Run(backend(), rows, dense), y);
      ExpectSameBits(dense, states);
    }
  }
}

TEST_P(SsdScanTest, NanInOneHeadLeavesTheOthersAlone) {
  SsdScanCase scan(3, 1, 5, 4, 10);
  const std::vector<SlotRow> rows = {{0, 0, 4}, {1, 4, 6}};
  Floats clean_states(2 * scan.StateFloats()), states = clean_states;
  const Floats clean = scan.Run(backend(), rows, clean_states);
  scan.dt[6 * 3 + 1] = kNan;
  const Floats y = scan.Run(backend(), rows, states);
  for (size_t i = 0; i < y.size(); ++i) {
    const bool hit = i >= 6 * 15 && i % 15 / 5 == 1;
    EXPECT_EQ(std::isnan(y[i]), hit) << "at " << i;
    if (!hit) {
      EXPECT_EQ(y[i], clean[i]);
    }
  }
}

TEST_P(GatedNormTest, IsRightForEveryWidth) {
  for (const int64_t group_width : kEdgeSizes) {
    for (const int64_t groups : {1, 2, 3}) {
      for (const int64_t tokens : {1, 3, 150}) {
        SCOPED_TRACE(testing::Message() << groups << " x " << group_width);
        const GatedNormCase norm(groups * group_width, groups, tokens);
        ExpectClose(norm.Run(backend()), norm.Expected());
      }
    }
  }
}

TEST_P(GatedNormTest, IsTheGateAloneWithoutWeights) {
  for (const int64_t d_inner : {1, 17, 129}) {
    GatedNormCase norm(d_inner, 1, 5);
    norm.weight.clear();
    ExpectClose(norm.Run(backend()), norm.Expected());
  }
}

TEST_P(GatedNormTest, OfATokenDoesNotDependOnTheOthers) {
  const GatedNormCase norm(2 * 300, 2, 130);
  const Floats together = norm.Run(backend());
  for (int64_t t = 0; t < norm.tokens; ++t) {
    GatedNormCase alone(norm.d_inner, 2, 1);
    alone.y = Slice(norm.y, t, 1, norm.d_inner);
    alone.z = Slice(norm.z, t, 1, norm.d_inner);
    ExpectSameBits(alone.Run(backend()), Slice(together, t, 1, norm.d_inner));
  }
}

TEST_P(GatedNormTest, MayWriteOverItsInput) {
  for (const int64_t d_inner : {6, 66, 258}) {
    const GatedNormCase norm(d_inner, 2, 3);
    ExpectSameBits(norm.Run(backend(), true), norm.Run(backend()));
  }
}

INSTANTIATE_TEST_SUITE_P(All, SsdScanTest,
                         ::testing::ValuesIn(BackendsUnderTest()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(All, GatedNormTest,
                         ::testing::ValuesIn(BackendsUnderTest()),
                         [](const auto& info) { return info.param.name; });

#if HWY_ARCH_X86
TEST(CpuSsdScan, GivesTheSameBitsWithAvx2AndAvx512) {
  UseCpuTargets(0);
  if ((hwy::SupportedTargets() & HWY_AVX3) == 0) GTEST_SKIP() << "no AVX-512";
  auto backend = MakeBackend({BackendKind::kCpu, 1});
  ENGRAM_CHECK_OK(backend.status());
  const SsdScanCase scan(4, 2, 43, 19, 11);
  const GatedNormCase norm(2 * 83, 2, 5);
  const std::vector<SlotRow> rows = {{0, 0, 11}};
  Floats wide_state(scan.StateFloats()), narrow_state = wide_state;
  UseCpuTargets(HWY_AVX3);
  const Floats wide_y = scan.Run(**backend, rows, wide_state);
  const Floats wide_normed = norm.Run(**backend);
  UseCpuTargets(HWY_AVX2);
  ExpectSameBits(scan.Run(**backend, rows, narrow_state), wide_y);
  ExpectSameBits(narrow_state, wide_state);
  ExpectSameBits(norm.Run(**backend), wide_normed);
  UseCpuTargets(0);
}
#endif

TEST(CpuSsdScanDeathTest, HeadsThatDoNotFillTheirGroupsStopTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto backend = MakeBackend({BackendKind::kCpu, 1});
  ENGRAM_CHECK_OK(backend.status());
  const SsdScanCase scan(3, 2, 2, 2, 1);
  Floats states(scan.StateFloats());
  EXPECT_DEATH(scan.Run(**backend, std::vector<SlotRow>{{0, 0, 1}}, states),
               "broken invariant");
  const GatedNormCase norm(3, 2, 1);
  EXPECT_DEATH(norm.Run(**backend), "broken invariant");
}

}  // namespace
}  // namespace engram

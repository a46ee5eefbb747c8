// The reference itself, against cases computed by hand.
#include "tests/support/reference_ops.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram::reference {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

constexpr double kTolerance = 1e-12;

TEST(ReferenceOps, SoftplusAndSilu) {
  EXPECT_NEAR(Softplus(0.0), std::log(2.0), kTolerance);
  EXPECT_EQ(Softplus(21.0), 21.0);
  EXPECT_NEAR(Softplus(-30.0) / std::exp(-30.0), 1.0, kTolerance);
  EXPECT_EQ(Silu(0.0), 0.0);
  EXPECT_NEAR(Silu(1.0), 0.7310585786300049, kTolerance);
}

TEST(ReferenceOps, RmsNorm) {
  // mean(x²) = (9 + 16) / 2 = 12.5.
  EXPECT_THAT(Norm(NormKind::kRms, 0.0, 2, {3.0, 4.0}, {1.0, 2.0}, {}),
              ElementsAre(DoubleNear(3.0 / std::sqrt(12.5), kTolerance),
                          DoubleNear(8.0 / std::sqrt(12.5), kTolerance)));
}

TEST(ReferenceOps, LayerNorm) {
  EXPECT_THAT(
      Norm(NormKind::kLayer, 0.0, 2, {3.0, 5.0}, {1.0, 2.0}, {10.0, 20.0}),
      ElementsAre(DoubleNear(9.0, kTolerance), DoubleNear(22.0, kTolerance)));
}

TEST(ReferenceOps, MatMul) {
  EXPECT_THAT(
      MatMul(2, 2, {1.0, 2.0, 3.0, 4.0}, {5.0, 6.0, 7.0, 8.0}, {0.5, 0}),
      ElementsAre(17.5, 39.0, 23.5, 53.0));
}

TEST(ReferenceOps, CausalConv1dOfOneChannel) {
  Values window = {1.0, 2.0};
  const Values y =
      CausalConv1d(1, 3, {3.0, 4.0}, {0.5, 0.25, 2.0}, {1.0}, window);
  EXPECT_THAT(y, ElementsAre(DoubleNear(Silu(8.0), kTolerance),
                             DoubleNear(Silu(10.75), kTolerance)));
  EXPECT_THAT(window, ElementsAre(3.0, 4.0));
}

TEST(ReferenceOps, SelectiveScanOfOneChannel) {
  ScanInputs in;
  in.d_inner = 1;
  in.d_state = 1;
  in.x = {2.0, 1.0};
  in.dt = {20.0, 20.0};
  in.dt_bias = {4.0};  // delta = 24 exactly
  in.z = {1.0, 0.0};
  in.b = {0.5, 0.25};
  in.c = {3.0, 1.0};
  in.d = {10.0};
  in.a = {-std::log(2.0) / 24.0};  // halves the state
  Values state = {4.0};
  const Values y = SelectiveScan(in, state);
  // h = 4/2 + 24*0.5*2 = 26, then 26/2 + 24*0.25*1 = 19.
  EXPECT_NEAR(y[0], (3.0 * 26.0 + 20.0) * Silu(1.0), 1e-10);
  EXPECT_EQ(y[1], 0.0);
  EXPECT_NEAR(state[0], 19.0, 1e-10);
}

TEST(ReferenceOps, SsdScanOfTwoHeadsAndGroups) {
  SsdScanInputs in;
  in.heads = 2;
  in.groups = 2;
  in.head_dim = 1;
  in.d_state = 1;
  in.dt_min = 1.0;
  in.dt_max = 24.0;
  in.x = {2.0, 3.0};
  in.dt = {20.0, -100.0};
  in.dt_bias = {10.0, 0.0};  // delta = 24 and 1, both clamped
  in.b = {0.5, 5.0};
  in.c = {3.0, 7.0};
  in.d = {10.0, 0.5};
  in.a = {-std::log(2.0) / 24.0, -std::log(4.0)};
  Values state = {4.0, 8.0};
  const Values y = SsdScan(in, state);
  // h = 4/2 + 24*0.5*2 = 26 and 8/4 + 1*5*3 = 17.
  EXPECT_NEAR(state[0], 26.0, 1e-10);
  EXPECT_NEAR(state[1], 17.0, 1e-10);
  EXPECT_NEAR(y[0], 3.0 * 26.0 + 10.0 * 2.0, 1e-10);
  EXPECT_NEAR(y[1], 7.0 * 17.0 + 0.5 * 3.0, 1e-10);
}

TEST(ReferenceOps, GatedNormOfTwoGroups) {
  const Values y = {3.0, 4.0, 2.0, 0.0};
  const Values z(4, 1.0);
  const double gate = Silu(1.0);
  EXPECT_THAT(GatedNorm(4, 2, 0.0, y, z, {}),
              ElementsAre(3.0 * gate, 4.0 * gate, 2.0 * gate, 0.0));
  const double first_rms = std::sqrt(12.5);
  const double second_rms = std::sqrt(2.0);
  EXPECT_THAT(GatedNorm(4, 2, 0.0, y, z, {1.0, 2.0, 3.0, 4.0}),
              ElementsAre(DoubleNear(3.0 / first_rms, kTolerance),
                          DoubleNear(8.0 / first_rms, kTolerance),
                          DoubleNear(6.0 / second_rms, kTolerance), 0.0));
}

}  // namespace
}  // namespace engram::reference

// The reference itself, against cases computed by hand.
#include "tests/support/reference_ops.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram::reference {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::Pointwise;

constexpr double kTolerance = 1e-12;

TEST(ReferenceOps, SoftplusAndSilu) {
  EXPECT_NEAR(Softplus(0.0), std::log(2.0), kTolerance);
  EXPECT_EQ(Softplus(21.0), 21.0);
  EXPECT_NEAR(Softplus(-30.0) / std::exp(-30.0), 1.0, kTolerance);
  EXPECT_EQ(Silu(0.0), 0.0);
  EXPECT_NEAR(Silu(1.0), 0.7310585786300049, kTolerance);
}

TEST(ReferenceOps, GeluAndItsApproximation) {
  EXPECT_EQ(Gelu(0.0), 0.0);
  // The normal distribution at 1 and -2.
  EXPECT_NEAR(Gelu(1.0), 0.8413447460685429, kTolerance);
  EXPECT_NEAR(Gelu(-2.0), -2.0 * 0.022750131948179207, kTolerance);
  EXPECT_EQ(GeluTanh(0.0), 0.0);
  // sqrt(2/π) 1.044715 = 0.8335619..., whose tanh is 0.6823839...
  EXPECT_NEAR(GeluTanh(1.0), 0.8411919906082768, kTolerance);
  EXPECT_NEAR(GeluTanh(-2.0), -0.04540230591222497, kTolerance);
  EXPECT_EQ(Activate(Activation::kNone, -3.0), -3.0);
  EXPECT_EQ(Activate(Activation::kSilu, -3.0), Silu(-3.0));
  EXPECT_EQ(Activate(Activation::kGelu, -3.0), Gelu(-3.0));
  EXPECT_EQ(Activate(Activation::kGeluTanh, -3.0), GeluTanh(-3.0));
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
  const Values y = CausalConv1d(1, 3, {3.0, 4.0}, {0.5, 0.25, 2.0}, {1.0},
                                Activation::kSilu, window);
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

TEST(ReferenceOps, ShiftMultiplyOfOneChannel) {
  Values state = {1.0, 2.0};
  const Values p =
      ShiftMultiply(1, 3, {3.0, 4.0}, {10.0, 100.0}, {0.5, 0.25, 2.0}, state);
  EXPECT_THAT(p, ElementsAre(70.0, 975.0));
  EXPECT_THAT(state, ElementsAre(3.0, 4.0));
}

TEST(ReferenceOps, DiagonalScanOfOneChannelAndTwoPairs) {
  DiagonalScanInputs in;
  in.channels = 1;
  in.pairs = 2;
  in.p = {1.0, 2.0};
  in.decay = {0.0, 1.0, 0.5, 0.0};  // i and 1/2
  in.read = {3.0, 4.0, 10.0, 0.0};  // 3 + 4i and 10
  in.d = {0.25};
  Values state = {2.0, 1.0, 4.0, 0.0};
  // The states are i (2 + i) + 1 = 2i and 3, then 2 i² + 2 = 0 and 3.5.
  EXPECT_THAT(DiagonalScan(in, state),
              ElementsAre(-8.0 + 30.0 + 0.25, 35.0 + 0.5));
  EXPECT_THAT(state, ElementsAre(0.0, 0.0, 3.5, 0.0));
  in.activation = Activation::kSilu;
  in.gate = {2.0, -1.0};
  state = {2.0, 1.0, 4.0, 0.0};
  EXPECT_THAT(DiagonalScan(in, state),
              ElementsAre(2.0 * Silu(22.25), -Silu(35.5)));
}

TEST(ReferenceOps, RotateByPosition) {
  // Two heads of five dimensions, of which four turn: by 1 and 1/100 a token.
  Values x = {1.0, 0.0, 0.0, 1.0, 7.0, 0.0, 1.0, 1.0, 0.0, 8.0};
  RotateByPosition(2, 5, {1.0, 0.01}, 3, x);
  const Values expected = {
      std::cos(3.0),  -std::sin(0.03), std::sin(3.0), std::cos(0.03), 7.0,
      -std::sin(3.0), std::cos(0.03),  std::cos(3.0), std::sin(0.03), 8.0};
  EXPECT_THAT(x, Pointwise(DoubleNear(kTolerance), expected));
}

TEST(ReferenceOps, AttentionOfTwoHeads) {
  // Scores 0 and log 3 in the first head, equal ones in the second.
  const double query = 2.0 * std::log(3.0);
  const Values k = {0, 0, 0, 0, 5, 5, 5, 5, 1, 0, 0, 0, 5, 5, 5, 5};
  const Values v = {1, 2, 3, 4, 10, 20, 30, 40, 5, 6, 7, 8, 30, 0, 0, 0};
  const Values q = {query, 9, 9, 9, 1, 1, 1, 1};
  const Values expected = {4, 5, 6, 7, 20, 10, 15, 20};
  EXPECT_THAT(Attention(2, 2, 4, 0.5, q, k, v),
              Pointwise(DoubleNear(kTolerance), expected));
  // The first token sees only itself.
  Values both = q;
  both.insert(both.end(), q.begin(), q.end());
  const Values y = Attention(2, 2, 4, 0.5, both, k, v);
  EXPECT_THAT(
      Values(y.begin(), y.begin() + 8),
      Pointwise(DoubleNear(kTolerance), Values(v.begin(), v.begin() + 8)));
}

TEST(ReferenceOps, AttentionOfHeadsThatShareTheirKeysAndValues) {
  const Values k = {1, 2, 3, 4};  // two tokens of two heads
  const Values v = {5, 6, 7, 8};
  const Values shared_k = {1, 1, 2, 2, 3, 3, 4, 4};
  const Values shared_v = {5, 5, 6, 6, 7, 7, 8, 8};
  const Values q = {0.5, -1, 2, 3};
  EXPECT_EQ(Attention(4, 2, 1, 0.3, q, k, v),
            Attention(4, 4, 1, 0.3, q, shared_k, shared_v));
}

}  // namespace
}  // namespace engram::reference

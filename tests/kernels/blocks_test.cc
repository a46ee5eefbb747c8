// A block gives bit for bit what its operations give one after the other, for
// every back end that this build has. The operations are called here once more,
// in the order of kernels/blocks.h, each result in memory of its own.
#include "kernels/blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "tests/kernels/backend_under_test.h"
#include "tests/kernels/block_test_case.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

// Rows of one token each, as in decode; two of them leave their state in
// another slot.
std::vector<SlotRow> Decoding(int count) {
  constexpr int kOtherSlots = 32;
  std::vector<SlotRow> rows;
  for (int i = 0; i < count; ++i) {
    rows.push_back({i, i, 1, i == 1 || i == 4 ? kOtherSlots + i : -1,
                    int64_t{7} * i % 60});
  }
  return rows;
}

// Slots and tokens of the rows of a step. Ragged, with slots written elsewhere,
// rows without tokens that leave their state or copy it; and in between rows
// that decode, as many as take one kernel or another.
const std::vector<std::vector<SlotRow>> kSteps = {
    {{0, 0, 5}, {1, 5, 2, 3}, {2, 7, 0}, {4, 7, 0, 5}, {6, 7, 1}},
    {{3, 0, 1, -1, 2}, {0, 1, 1, 7, 5}},
    Decoding(1),
    Decoding(9),
    {{7, 0, 40, -1, 6}, {5, 40, 0, 1}},
    Decoding(8),
    {{2, 0, 0}, {6, 0, 0, 4, 1}},
    {{5, 0, 1, -1, 3}, {1, 1, 0, 8, 2}, {3, 1, 1, 0, 9}, {4, 2, 0}, {6, 2, 0}},
    Decoding(32),
    {{4, 0, 1}, {5, 1, 3}}};
constexpr int64_t kBlocksOfSlot = 2;  // of keys and values: 64 tokens
constexpr int64_t kShares = 37 * kBlocksOfSlot;  // of slots or blocks
constexpr int64_t kTokensMax = 40;

// The operations, called by a test.
struct Calls {
  Backend& backend;
  const StepRows& step;
  BlockMemory memory{&backend};

  Matrix NewMatrix(int64_t width) {
    return memory.NewMatrix(step.tokens(), width);
  }
  Matrix Norm(const NormWeights& norm, int64_t d_model, const float* residual) {
    const Matrix normed = NewMatrix(d_model);
    backend.Norm(norm, step.tokens(), d_model, residual, normed);
    return normed;
  }
  Matrix Product(const LinearWeights& linear, ConstMatrix x,
                 Activation activation = Activation::kNone) {
    const Matrix y = NewMatrix(linear.weight->outputs());
    backend.MatMul(*linear.weight, step.tokens(), x, {linear.bias, activation},
                   y);
    return y;
  }
  void AddProduct(const LinearWeights& linear, ConstMatrix x, float* residual) {
    backend.MatMul(*linear.weight, step.tokens(), x,
                   {linear.bias, Activation::kNone, /*accumulate=*/true},
                   {residual, linear.weight->outputs()});
  }
  Matrix Convolution(const ConvolutionWeights& convolution, int64_t channels,
                     Activation activation, ConstMatrix x, LayerShares state) {
    const Matrix y = NewMatrix(channels);
    backend.CausalConv1d(step,
                         {channels, convolution.taps, x, convolution.weight,
                          convolution.bias, activation, state, y});
    return y;
  }
  Matrix DiagonalScan(const DiagonalSsmWeights& ssm, int64_t channels,
                      ConstMatrix p, ConstMatrix gate, Activation activation,
                      LayerShares state) {
    const Matrix y = NewMatrix(channels);
    backend.DiagonalScan(step, {channels, ssm.pairs, p, gate, ssm.decay,
                                ssm.read, ssm.d, activation, state, y});
    return y;
  }
  Matrix Gate(int64_t d_inner, int64_t groups, ConstMatrix y, ConstMatrix z,
              const float* weight, float epsilon) {
    const Matrix normed = NewMatrix(d_inner);
    backend.GatedNorm(
        {step.tokens(), d_inner, groups, y, z, weight, epsilon, normed});
    return normed;
  }
};

ConstMatrix From(ConstMatrix matrix, int64_t column) {
  return {matrix.floats() + column, matrix.stride};
}

// The residual and the states that a block works on.
struct Changed {
  float* residual;
  std::vector<LayerShares> states;
};
using Way = std::function<void(const StepRows&, const Changed&)>;

class BlocksTest : public BackendUnderTestSuite {
 protected:
  void SetUp() override {
    BackendUnderTestSuite::SetUp();
    if (IsSkipped()) return;
    memory_ = std::make_unique<BlockMemory>(&backend(), GetParam().format);
  }
  void TearDown() override {
    memory_.reset();
    BackendUnderTestSuite::TearDown();
  }

  BlockMemory& memory() { return *memory_; }

  // Takes both through all steps, each from what the one before left, and looks
  // at the residuals and at the states of all slots. `states`: floats of each
  // in a slot, or in a block of keys and values.
  void ExpectSame(int64_t d_model, int64_t scratch_floats,
                  const std::vector<int64_t>& states, const Way& block,
                  const Way& operations, bool has_blocks = false) {
    ENGRAM_CHECK_OK(backend().ReserveSteps(
        {.tokens = kTokensMax, .block_floats = scratch_floats}));
    std::vector<Floats> by_block, by_operations;
    for (size_t i = 0; i < states.size(); ++i) {
      by_block.push_back(RandomFloats(i + 1, kShares * states[i]));
    }
    by_operations = by_block;
    for (size_t i = 0; i < kSteps.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "step " << i);
      const Floats residual =
          StepBy(block, i, d_model, states, by_block, has_blocks);
      ExpectSameBits(residual, StepBy(operations, i, d_model, states,
                                      by_operations, has_blocks));
      for (size_t j = 0; j < states.size(); ++j) {
        SCOPED_TRACE(testing::Message() << "state " << j);
        ExpectSameBits(by_block[j], by_operations[j]);
      }
      // A block that did nothing would be like another that does nothing.
      if (!residual.empty()) {
        EXPECT_NE(residual, RandomFloats(50 + i, residual.size()));
      }
    }
  }

 private:
  // The residual after a step, and the states.
  Floats StepBy(const Way& way, size_t index, int64_t d_model,
                const std::vector<int64_t>& widths, std::vector<Floats>& states,
                bool has_blocks) {
    const std::vector<SlotRow>& rows = kSteps[index];
    int64_t tokens = 0;
    std::vector<std::vector<int32_t>> lists;
    for (const SlotRow& row : rows) {
      tokens += row.tokens;
      const auto first = static_cast<int32_t>(kBlocksOfSlot * row.out());
      lists.push_back({first, first + 1});
    }
    std::vector<absl::Span<const int32_t>> blocks;
    if (has_blocks) blocks.assign(lists.begin(), lists.end());
    DeviceFloats residual(backend(),
                          RandomFloats(50 + index, tokens * d_model));
    std::vector<std::unique_ptr<DeviceShares>> device;
    Changed changed = {residual.data(), {}};
    for (size_t i = 0; i < widths.size(); ++i) {
      device.push_back(
          std::make_unique<DeviceShares>(backend(), states[i], widths[i]));
      changed.states.push_back(device.back()->shares());
    }
    way(Prepare(backend(), rows, blocks), changed);
    for (size_t i = 0; i < widths.size(); ++i) states[i] = device[i]->ToHost();
    return residual.ToHost();
  }

  std::unique_ptr<BlockMemory> memory_;
};

TEST_P(BlocksTest, OfMambaAreTheirOperations) {
  for (const auto& [d_model, d_inner, d_state, dt_rank, taps, has_bias] :
       {std::tuple{19, 38, 5, 3, 4, false}, std::tuple{32, 64, 16, 2, 4, true},
        std::tuple{7, 5, 1, 1, 1, true}}) {
    SCOPED_TRACE(testing::Message() << "d_model " << d_model);
    MambaBlockArguments block;
    block.d_inner = d_inner;
    block.d_state = d_state;
    block.dt_rank = dt_rank;
    block.norm = memory().Norm(NormKind::kRms, d_model);
    block.in_proj = memory().Linear(2 * d_inner, d_model, has_bias);
    block.convolution = memory().Convolution(taps, d_inner, has_bias);
    block.x_proj = memory().Linear(dt_rank + 2 * d_state, d_inner, has_bias);
    block.dt_proj = memory().Linear(d_inner, dt_rank, has_bias);
    block.dt_bias = memory().Values(d_inner);
    block.a = memory().Values(d_state * d_inner, -8.0f, -0.01f);
    block.d = memory().Values(d_inner);
    block.out_proj = memory().Linear(d_model, d_inner, has_bias);
    const Way operations = [&](const StepRows& step, const Changed& changed) {
      Calls call{backend(), step};
      const Matrix normed = call.Norm(block.norm, d_model, changed.residual);
      const Matrix xz = call.Product(block.in_proj, normed);
      const Matrix x = call.Convolution(
          block.convolution, d_inner, Activation::kSilu, xz, changed.states[0]);
      const Matrix dt_b_c = call.Product(block.x_proj, x);
      const Matrix dt = call.Product(block.dt_proj, dt_b_c);
      const Matrix y = call.NewMatrix(d_inner);
      backend().SelectiveScan(
          step, {d_inner, d_state, x, dt, From(dt_b_c, dt_rank),
                 From(dt_b_c, dt_rank + d_state), From(xz, d_inner),
                 block.dt_bias, block.a, block.d, changed.states[1], y});
      call.AddProduct(block.out_proj, y, changed.residual);
    };
    ExpectSame(
        d_model, block.ScratchFloats(),
        {(taps - 1) * d_inner, d_state * d_inner},
        [&](const StepRows& step, const Changed& changed) {
          block.conv_state = changed.states[0];
          block.ssm_state = changed.states[1];
          backend().MambaBlock(step, block, changed.residual);
        },
        operations);
  }
}

TEST_P(BlocksTest, OfMamba2AreTheirOperations) {
  for (const auto& [d_model, heads, groups, d_state, taps, has_bias, norm] :
       {std::tuple{19, 4, 2, 5, 4, false, true},
        std::tuple{32, 3, 1, 16, 3, true, false}}) {
    SCOPED_TRACE(testing::Message() << "d_model " << d_model);
    const int64_t head_dim = 8, d_inner = heads * head_dim;
    const int64_t convolved = d_inner + 2 * groups * d_state;
    Mamba2BlockArguments block;
    block.heads = heads;
    block.groups = groups;
    block.head_dim = head_dim;
    block.d_state = d_state;
    block.dt_min = 0.01f;
    block.dt_max = 2.0f;
    block.norm = memory().Norm(NormKind::kRms, d_model);
    block.in_proj =
        memory().Linear(d_inner + convolved + heads, d_model, has_bias);
    block.convolution = memory().Convolution(taps, convolved, has_bias);
    block.dt_bias = memory().Values(heads);
    block.a = memory().Values(heads, -8.0f, -0.01f);
    block.d = memory().Values(heads);
    block.gated_norm = norm ? memory().Values(d_inner) : nullptr;
    block.gated_norm_epsilon = 1e-2f;
    block.out_proj = memory().Linear(d_model, d_inner, has_bias);
    const Way operations = [&](const StepRows& step, const Changed& changed) {
      Calls call{backend(), step};
      const Matrix normed = call.Norm(block.norm, d_model, changed.residual);
      const Matrix projected = call.Product(block.in_proj, normed);
      const Matrix x_b_c =
          call.Convolution(block.convolution, convolved, Activation::kSilu,
                           From(projected, d_inner), changed.states[0]);
      const Matrix y = call.NewMatrix(d_inner);
      SsdScanArguments scan;
      scan.heads = heads;
      scan.groups = groups;
      scan.head_dim = head_dim;
      scan.d_state = d_state;
      scan.x = x_b_c;
      scan.dt = From(projected, d_inner + convolved);
      scan.b = From(x_b_c, d_inner);
      scan.c = From(x_b_c, d_inner + groups * d_state);
      scan.dt_bias = block.dt_bias;
      scan.a = block.a;
      scan.d = block.d;
      scan.dt_min = 0.01f;
      scan.dt_max = 2.0f;
      scan.ssm_state = changed.states[1];
      scan.y = y;
      scan.room = call.NewMatrix(SsdRoomFloats(groups, d_state)).floats();
      backend().SsdScan(step, scan);
      const Matrix gated =
          call.Gate(d_inner, groups, y, projected, block.gated_norm, 1e-2f);
      call.AddProduct(block.out_proj, gated, changed.residual);
    };
    ExpectSame(
        d_model, block.ScratchFloats(),
        {(taps - 1) * convolved, heads * d_state * head_dim},
        [&](const StepRows& step, const Changed& changed) {
          block.conv_state = changed.states[0];
          block.ssm_state = changed.states[1];
          backend().Mamba2Block(step, block, changed.residual);
        },
        operations);
  }
}

TEST_P(BlocksTest, OfH3AreTheirOperations) {
  for (const auto& [d_model, taps, pairs, has_bias] :
       {std::tuple{19, 8, 3, true}, std::tuple{32, 64, 32, false},
        std::tuple{5, 1, 1, true}}) {
    SCOPED_TRACE(testing::Message() << "d_model " << d_model);
    H3BlockArguments block;
    block.norm = memory().Norm(NormKind::kLayer, d_model);
    block.q_proj = memory().Linear(d_model, d_model, has_bias);
    block.k_proj = memory().Linear(d_model, d_model, has_bias);
    block.v_proj = memory().Linear(d_model, d_model, has_bias);
    block.taps = taps;
    block.filter = memory().Values(taps * d_model);
    block.ssm = memory().DiagonalSsm(pairs, d_model);
    block.output = memory().Linear(d_model, d_model, has_bias);
    const Way operations = [&](const StepRows& step, const Changed& changed) {
      Calls call{backend(), step};
      const Matrix normed = call.Norm(block.norm, d_model, changed.residual);
      const Matrix q = call.Product(block.q_proj, normed);
      const Matrix k = call.Product(block.k_proj, normed);
      const Matrix v = call.Product(block.v_proj, normed);
      const Matrix p = call.NewMatrix(d_model);
      backend().ShiftMultiply(
          step, {d_model, taps, k, v, block.filter, changed.states[0], p});
      const Matrix y = call.DiagonalScan(block.ssm, d_model, p, q,
                                         Activation::kNone, changed.states[1]);
      call.AddProduct(block.output, y, changed.residual);
    };
    ExpectSame(
        d_model, block.ScratchFloats(),
        {(taps - 1) * d_model, 2 * pairs * d_model},
        [&](const StepRows& step, const Changed& changed) {
          block.shift_state = changed.states[0];
          block.diagonal_state = changed.states[1];
          backend().H3Block(step, block, changed.residual);
        },
        operations);
  }
}

TEST_P(BlocksTest, OfS4dAreTheirOperations) {
  for (const auto& [d_model, pairs, has_bias] :
       {std::tuple{19, 3, true}, std::tuple{32, 32, false}}) {
    SCOPED_TRACE(testing::Message() << "d_model " << d_model);
    S4dBlockArguments block;
    block.norm = memory().Norm(NormKind::kLayer, d_model);
    block.ssm = memory().DiagonalSsm(pairs, d_model);
    block.output = memory().Linear(d_model, d_model, has_bias);
    ExpectSame(
        d_model, block.ScratchFloats(), {2 * pairs * d_model},
        [&](const StepRows& step, const Changed& changed) {
          block.diagonal_state = changed.states[0];
          backend().S4dBlock(step, block, changed.residual);
        },
        [&](const StepRows& step, const Changed& changed) {
          Calls call{backend(), step};
          const Matrix normed =
              call.Norm(block.norm, d_model, changed.residual);
          const Matrix y =
              call.DiagonalScan(block.ssm, d_model, normed, {},
                                Activation::kGelu, changed.states[0]);
          call.AddProduct(block.output, y, changed.residual);
        });
  }
}

TEST_P(BlocksTest, OfAttentionAreTheirOperations) {
  for (const auto& [d_model, heads, kv_heads, taps, rotary_dim, has_bias] :
       {std::tuple{19, 3, 3, 0, 0, true}, std::tuple{24, 4, 2, 4, 6, true},
        std::tuple{24, 4, 1, 1, 8, false}, std::tuple{7, 2, 1, 0, 4, false}}) {
    SCOPED_TRACE(testing::Message()
                 << "heads " << heads << ", " << kv_heads << ", taps " << taps);
    const int64_t head_dim = 8;
    const int64_t q_width = heads * head_dim, kv_width = kv_heads * head_dim;
    const int64_t qkv_width = q_width + 2 * kv_width;
    const std::vector<double> radians = {1.0, 0.3, 0.1, 0.03};
    const auto frequencies =
        backend().Allocate(radians.size() * sizeof(double));
    ENGRAM_CHECK_OK(frequencies.status());
    ENGRAM_CHECK_OK(backend().CopyFromHost((*frequencies)->data(),
                                           radians.data(),
                                           radians.size() * sizeof(double)));
    AttentionBlockArguments block;
    block.heads = heads;
    block.kv_heads = kv_heads;
    block.head_dim = head_dim;
    block.scale = 0.4f;
    block.rotary_dim = rotary_dim;
    block.frequencies = static_cast<const double*>((*frequencies)->data());
    block.norm =
        memory().Norm(has_bias ? NormKind::kLayer : NormKind::kRms, d_model);
    block.qkv = memory().Linear(qkv_width, d_model, has_bias);
    if (taps > 0) {
      block.convolution = memory().Convolution(taps, qkv_width, has_bias);
    }
    block.output = memory().Linear(d_model, q_width, has_bias);
    const Way operations = [&](const StepRows& step, const Changed& changed) {
      Calls call{backend(), step};
      const Matrix normed = call.Norm(block.norm, d_model, changed.residual);
      Matrix qkv = call.Product(block.qkv, normed);
      if (taps > 0) {
        qkv = call.Convolution(block.convolution, qkv_width, Activation::kNone,
                               qkv, changed.states[1]);
      }
      const Matrix y = call.NewMatrix(q_width);
      backend().Attention(
          step, {heads, kv_heads, head_dim, 0.4f, rotary_dim, block.frequencies,
                 qkv, From(qkv, q_width), From(qkv, q_width + kv_width),
                 changed.states[0], y});
      call.AddProduct(block.output, y, changed.residual);
    };
    ExpectSame(
        d_model, block.ScratchFloats(),
        {2 * kv_width * kKeyValueBlockTokens,
         (taps == 0 ? 0 : taps - 1) * qkv_width},
        [&](const StepRows& step, const Changed& changed) {
          block.blocks = changed.states[0];
          block.conv_state = changed.states[1];
          backend().AttentionBlock(step, block, changed.residual);
        },
        operations, /*has_blocks=*/true);
  }
}

TEST_P(BlocksTest, OfMlpsAreTheirOperations) {
  for (const auto& [d_model, width, gated, has_bias, kind] :
       {std::tuple{19, 20, false, true, NormKind::kLayer},
        std::tuple{32, 48, true, false, NormKind::kRms},
        std::tuple{5, 7, true, true, NormKind::kLayer},
        std::tuple{16, 16, false, false, NormKind::kRms},
        std::tuple{301, 264, true, true, NormKind::kLayer}}) {
    SCOPED_TRACE(testing::Message() << "d_model " << d_model);
    MlpBlockArguments block;
    block.gated = gated;
    block.norm = memory().Norm(kind, d_model);
    block.fc1 = memory().Linear(gated ? 2 * width : width, d_model, has_bias);
    block.fc2 = memory().Linear(d_model, width, has_bias);
    ExpectSame(
        d_model, block.ScratchFloats(), {},
        [&](const StepRows& step, const Changed& changed) {
          backend().MlpBlock(step, block, changed.residual);
        },
        [&](const StepRows& step, const Changed& changed) {
          Calls call{backend(), step};
          const Matrix normed =
              call.Norm(block.norm, d_model, changed.residual);
          Matrix hidden =
              call.Product(block.fc1, normed,
                           gated ? Activation::kNone : Activation::kGeluTanh);
          if (gated) {
            hidden = call.Gate(width, 1, hidden, From(hidden, width), nullptr,
                               1e-5f);
          }
          call.AddProduct(block.fc2, hidden, changed.residual);
        });
  }
}

TEST_P(BlocksTest, OfOtherShapesOrWithoutScratchAreBugs) {
  MlpBlockArguments block;
  block.norm = memory().Norm(NormKind::kRms, 16);
  block.fc1 = memory().Linear(20, 16, false);
  block.fc2 = memory().Linear(16, 20, false);
  float* const residual = memory().Zeros(3 * 16);
  const StepRows& step = Prepare(backend(), {{0, 0, 3}});
  EXPECT_DEATH(backend().MlpBlock(step, block, residual), "scratch");
  ENGRAM_CHECK_OK(backend().ReserveSteps(
      {.tokens = 2, .block_floats = block.ScratchFloats()}));
  EXPECT_DEATH(backend().MlpBlock(step, block, residual), "scratch");
  ENGRAM_CHECK_OK(backend().ReserveSteps(
      {.tokens = 3, .block_floats = block.ScratchFloats()}));
  backend().MlpBlock(step, block, residual);
  block.gated = true;
  EXPECT_DEATH(backend().MlpBlock(step, block, residual), "outputs");
  block.gated = false;
  block.fc2 = memory().Linear(16, 21, false);
  EXPECT_DEATH(backend().MlpBlock(step, block, residual), "outputs");
  block.fc2 = memory().Linear(16, 20, false);
  block.norm.kind = NormKind::kLayer;
  EXPECT_DEATH(backend().MlpBlock(step, block, residual), "bias");
}

TEST_P(BlocksTest, ScratchThatCannotBeHadIsRefusedWithItsBytes) {
  const absl::Status status = backend().ReserveSteps(
      {.tokens = int64_t{1} << 30, .block_floats = int64_t{1} << 20});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("4503599627370496"), std::string::npos)
      << status;
}

// Products of narrow weights are others on a device.
std::vector<BackendUnderTest> BackendsAndFormats() {
  std::vector<BackendUnderTest> backends = BackendsUnderTest();
  backends.push_back(
      {"CudaBFloat16", BackendKind::kCuda, 0, WeightFormat::kBFloat16});
  backends.push_back(
      {"CudaFloat16", BackendKind::kCuda, 0, WeightFormat::kFloat16});
  backends.push_back({"CudaInt8", BackendKind::kCuda, 0, WeightFormat::kInt8});
  return backends;
}

INSTANTIATE_TEST_SUITE_P(All, BlocksTest,
                         ::testing::ValuesIn(BackendsAndFormats()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace engram

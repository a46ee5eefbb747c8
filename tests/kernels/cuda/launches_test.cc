// How many kernels a block of a decode step is, on the emulated device, and
// that a row which has no token when they run is left alone.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/status.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/kernels/block_test_case.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

constexpr int64_t kModel = 24, kInner = 32, kStates = 4, kTaps = 4;
constexpr int kSlots = 40;
constexpr int kTokensMax = 32;

class LaunchesTest : public ::testing::Test {
 protected:
  LaunchesTest() {
    auto made = MakeCudaBackend();
    ENGRAM_CHECK_OK(made.status());
    backend_ = *std::move(made);
    memory_ =
        std::make_unique<BlockMemory>(backend_.get(), WeightFormat::kBFloat16);
    ENGRAM_CHECK_OK(
        backend_->ReserveSteps({.tokens = kTokensMax, .block_floats = 4096}));
    residual_ = memory_->Zeros(kTokensMax * kModel);
  }
  ~LaunchesTest() override { memory_.reset(); }

  Backend& backend() { return *backend_; }
  BlockMemory& memory() { return *memory_; }
  float* residual() { return residual_; }

  LayerShares Shares(int64_t width) {
    return {memory_->Zeros(kSlots * width), width};
  }

  MambaBlockArguments Mamba() {
    MambaBlockArguments block;
    block.d_inner = kInner;
    block.d_state = kStates;
    block.dt_rank = 2;
    block.norm = memory().Norm(NormKind::kRms, kModel);
    block.in_proj = memory().Linear(2 * kInner, kModel, false);
    block.convolution = memory().Convolution(kTaps, kInner, true);
    block.x_proj = memory().Linear(2 + 2 * kStates, kInner, false);
    block.dt_proj = memory().Linear(kInner, 2, false);
    block.dt_bias = memory().Values(kInner);
    block.a = memory().Values(kStates * kInner, -8.0f, -0.01f);
    block.d = memory().Values(kInner);
    block.out_proj = memory().Linear(kModel, kInner, false);
    block.conv_state = Shares((kTaps - 1) * kInner);
    block.ssm_state = Shares(kStates * kInner);
    return block;
  }

  Mamba2BlockArguments Mamba2() {
    Mamba2BlockArguments block;
    block.heads = 4;
    block.groups = 2;
    block.head_dim = kInner / 4;
    block.d_state = kStates;
    block.norm = memory().Norm(NormKind::kRms, kModel);
    block.in_proj = memory().Linear(block.projected(), kModel, false);
    block.convolution = memory().Convolution(kTaps, block.convolved(), true);
    block.dt_bias = memory().Values(block.heads);
    block.a = memory().Values(block.heads, -8.0f, -0.01f);
    block.d = memory().Values(block.heads);
    block.gated_norm = memory().Values(kInner);
    block.out_proj = memory().Linear(kModel, kInner, false);
    block.conv_state = Shares((kTaps - 1) * block.convolved());
    block.ssm_state = Shares(kStates * kInner);
    return block;
  }

  H3BlockArguments H3() {
    H3BlockArguments block;
    block.norm = memory().Norm(NormKind::kLayer, kModel);
    block.q_proj = memory().Linear(kModel, kModel, true);
    block.k_proj = memory().Linear(kModel, kModel, true);
    block.v_proj = memory().Linear(kModel, kModel, true);
    block.taps = 8;
    block.filter = memory().Values(block.taps * kModel);
    block.ssm = memory().DiagonalSsm(kStates, kModel);
    block.output = memory().Linear(kModel, kModel, true);
    block.shift_state = Shares((block.taps - 1) * kModel);
    block.diagonal_state = Shares(2 * kStates * kModel);
    return block;
  }

  AttentionBlockArguments Attention(int64_t taps) {
    AttentionBlockArguments block;
    block.heads = 4;
    block.kv_heads = 2;
    block.head_dim = kInner / 4;
    block.scale = 0.4f;
    block.norm = memory().Norm(NormKind::kLayer, kModel);
    block.qkv = memory().Linear(block.qkv_width(), kModel, true);
    if (taps > 0) {
      block.convolution = memory().Convolution(taps, block.qkv_width(), true);
      block.conv_state = Shares((taps - 1) * block.qkv_width());
    }
    block.output = memory().Linear(kModel, kInner, true);
    block.blocks = Shares(2 * block.kv_width() * kKeyValueBlockTokens);
    return block;
  }

  MlpBlockArguments Mlp(bool gated) {
    MlpBlockArguments block;
    block.gated = gated;
    block.norm = memory().Norm(NormKind::kLayer, kModel);
    block.fc1 = memory().Linear(gated ? 2 * kInner : kInner, kModel, true);
    block.fc2 = memory().Linear(kModel, kInner, true);
    return block;
  }

  // Kernels of `block` in a step of so many rows with a token each.
  int64_t Kernels(int rows, const std::function<void(const StepRows&)>& block) {
    std::vector<SlotRow> decoding;
    std::vector<std::vector<int32_t>> lists;
    for (int i = 0; i < rows; ++i) {
      decoding.push_back({i, i, 1});
      lists.push_back({i});
    }
    const std::vector<absl::Span<const int32_t>> blocks(lists.begin(),
                                                        lists.end());
    const StepRows& step = Prepare(backend(), decoding, blocks);
    ENGRAM_CHECK_OK(backend().Synchronize());
    const int64_t before = emulation::counts().kernels;
    block(step);
    ENGRAM_CHECK_OK(backend().Synchronize());
    return emulation::counts().kernels - before;
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<BlockMemory> memory_;
  float* residual_ = nullptr;
};

TEST_F(LaunchesTest, MambaIsFourKernelsUpToEightRowsAndFiveAbove) {
  const MambaBlockArguments block = Mamba();
  for (const auto& [rows, kernels] :
       std::map<int, int>{{1, 4}, {8, 4}, {9, 5}, {32, 5}}) {
    EXPECT_EQ(Kernels(rows,
                      [&](const StepRows& step) {
                        backend().MambaBlock(step, block, residual());
                      }),
              kernels)
        << rows << " rows";
  }
}

TEST_F(LaunchesTest, Mamba2IsThreeKernelsUpToEightRowsAndFiveAbove) {
  const Mamba2BlockArguments block = Mamba2();
  for (const auto& [rows, kernels] :
       std::map<int, int>{{1, 3}, {8, 3}, {9, 5}, {32, 5}}) {
    EXPECT_EQ(Kernels(rows,
                      [&](const StepRows& step) {
                        backend().Mamba2Block(step, block, residual());
                      }),
              kernels)
        << rows << " rows";
  }
}

TEST_F(LaunchesTest, H3AndItsMlpAreFiveKernelsUpToEightRowsAndSevenAbove) {
  const H3BlockArguments block = H3();
  const MlpBlockArguments mlp = Mlp(/*gated=*/false);
  for (const auto& [rows, kernels] :
       std::map<int, int>{{1, 5}, {8, 5}, {9, 7}, {32, 7}}) {
    EXPECT_EQ(Kernels(rows,
                      [&](const StepRows& step) {
                        backend().H3Block(step, block, residual());
                        backend().MlpBlock(step, mlp, residual());
                      }),
              kernels)
        << rows << " rows";
  }
}

TEST_F(LaunchesTest, AttentionAndItsMlpAreAtMostSevenKernelsAndNineAbove) {
  for (const bool hybrid : {false, true}) {
    const AttentionBlockArguments block = Attention(hybrid ? kTaps : 0);
    const MlpBlockArguments mlp = Mlp(hybrid);
    for (const auto& [rows, kernels] :
         std::map<int, int>{{1, 7}, {8, 7}, {9, 9}, {32, 9}}) {
      EXPECT_LE(Kernels(rows,
                        [&](const StepRows& step) {
                          backend().AttentionBlock(step, block, residual());
                          backend().MlpBlock(step, mlp, residual());
                        }),
                kernels)
          << rows << " rows";
    }
  }
}

TEST_F(LaunchesTest, AnMlpIsTwoKernelsUpToEightRowsGatedOrNot) {
  for (const bool gated : {false, true}) {
    const MlpBlockArguments block = Mlp(gated);
    for (const int rows : {1, 8}) {
      EXPECT_EQ(Kernels(rows,
                        [&](const StepRows& step) {
                          backend().MlpBlock(step, block, residual());
                        }),
                2)
          << rows << " rows";
    }
  }
}

// By a graph that was recorded when it had one, as by the operations.
TEST_F(LaunchesTest, ARowWithoutATokenKeepsItsStateInARecordedStep) {
  constexpr int64_t kWidth = (kTaps - 1) * kInner;
  MambaBlockArguments block = Mamba();
  const Floats before = RandomFloats(3, kSlots * kWidth);
  for (const int slot_out : {1, 5}) {
    const auto after = [&](bool is_recorded) {
      DeviceShares shares(backend(), before, kWidth);
      block.conv_state = shares.shares();
      block.ssm_state = Shares(kStates * kInner);
      DeviceFloats inputs(backend(), RandomFloats(4, 3 * kModel));
      for (const int tokens : {1, 1, 0}) {
        const StepRows& step =
            Prepare(backend(), {{0, 0, 1},
                                {1, 1, tokens, tokens == 0 ? slot_out : 6},
                                {2, 1 + tokens, 1}});
        const auto record = [&] {
          backend().MambaBlock(step, block, inputs.data());
        };
        if (is_recorded) {
          backend().Replay(slot_out, record);
        } else {
          record();
        }
      }
      return shares.ToHost();
    };
    const Floats recorded = after(true);
    ExpectSameBits(recorded, after(false));
    ExpectSameBits(Slice(recorded, slot_out, 1, kWidth),
                   Slice(before, 1, 1, kWidth));
    EXPECT_NE(Slice(recorded, 2, 1, kWidth), Slice(before, 2, 1, kWidth));
  }
}

}  // namespace
}  // namespace engram

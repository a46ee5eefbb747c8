// The skeleton with the mixers of H3 and of the baselines beside it, against a
// plain implementation in its convolution form, which shares nothing with the
// recurrence here: the folders of tests/golden/{h3,s4d,attention} were written
// by tools/golden/make_h3_golden.py. And what loading refuses.

#include "model/block_stack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/backend.h"
#include "model/model.h"
#include "tests/model/golden_model.h"
#include "tests/model/model_folder.h"
#include "tests/model/model_loading.h"
#include "tests/support/folders.h"

namespace engram {
namespace {

class BlockStackGolden : public testing::TestWithParam<std::string> {};

TEST_P(BlockStackGolden, LogitsEqualThoseExpected) {
  ExpectGoldenLogits(SourceFile(absl::StrCat("tests/golden/", GetParam())));
}

INSTANTIATE_TEST_SUITE_P(
    Folders, BlockStackGolden,
    testing::Values("h3/plain", "h3/zoh", "h3/short_filter", "h3/bf16",
                    "h3/untied_no_mlp", "h3/hybrid", "h3/hybrid_rotary",
                    "s4d/plain", "s4d/untied_no_mlp", "attention/plain",
                    "attention/rotary", "attention/learned_positions"),
    [](const auto& info) {
      return absl::StrReplaceAll(info.param, {{"/", "_"}});
    });

class BlockStackLoading : public ModelLoading {
 protected:
  BlockStackLoading() : ModelLoading(RandomH3Config({}), RandomH3Tensors({})) {}

  void Use(const RandomH3Shape& shape) {
    shape_ = shape;
    config_ = RandomH3Config(shape_);
    tensors_ = RandomH3Tensors(shape_);
  }

  RandomH3Shape shape_;
};

RandomH3Shape Hybrid() {
  RandomH3Shape shape;
  shape.attention_layers = {0, 2};
  shape.rotary_dim = 4;
  return shape;
}

TEST_F(BlockStackLoading, TellsWhatAnH3Is) {
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelInfo& info = (*model)->info();
  EXPECT_EQ(info.family, "h3");
  EXPECT_EQ(info.parameters, Elements());
  EXPECT_EQ(info.layers, 3);
  // Three layers of 8 inputs and 3 complex states for each of 12 channels, and
  // the last hidden vector.
  EXPECT_EQ(info.state_bytes, StateBytes({3 * 8 * 12, 3 * 2 * 3 * 12, 12}));
  EXPECT_EQ(info.kv_bytes_per_token, 0u);
  EXPECT_EQ(info.kv_block_bytes, 0u);
  EXPECT_EQ(info.max_positions, 0);
  EXPECT_EQ((*model)->states().key_values().blocks, 0);
}

TEST_F(BlockStackLoading, TellsWhatAHybridKeepsOfEveryToken) {
  Use(Hybrid());
  limits_.kv_bytes = 100000;
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelInfo& info = (*model)->info();
  EXPECT_EQ(info.state_bytes, StateBytes({8 * 12, 2 * 3 * 12, 12}));
  EXPECT_EQ(info.kv_bytes_per_token, 2 * 2 * 12 * sizeof(float));
  EXPECT_EQ(info.kv_block_bytes, 32 * info.kv_bytes_per_token);
  EXPECT_EQ(info.kv_blocks, 100000 / 6144);
}

TEST_F(BlockStackLoading, TakesNoMoreBlocksThanLearnedPositionsCanFill) {
  RandomH3Shape shape;
  shape.family = "attention";
  shape.positions = 33;
  Use(shape);
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info().max_positions, 33);
  // Two slots of two blocks.
  EXPECT_EQ((*model)->info().kv_blocks, 4);
}

TEST_F(BlockStackLoading, NeedsMemoryForABlock) {
  Use(Hybrid());
  limits_.kv_bytes = 6143;
  ExpectRefused(absl::StatusCode::kInvalidArgument, "6143 bytes", "6144");
}

TEST_F(BlockStackLoading, RefusesTensorsThatContradictTheConfiguration) {
  for (const auto& [sound, wrong, tensor] : std::vector<Contradiction>{
           {"\"hidden_size\":12", "\"hidden_size\":13", "norm1.weight"},
           {"\"n_inner\":20", "\"n_inner\":21", "mlp.fc1.weight"},
           {"\"n_inner\":20", "\"n_inner\":0", "mlp.fc1.bias"},
           {"\"num_hidden_layers\":3", "\"num_hidden_layers\":4", "layers.3."},
           {"\"num_hidden_layers\":3", "\"num_hidden_layers\":2", "layers.2."},
           {"\"attn_layer_idx\":[]", "\"attn_layer_idx\":[1]", "Wqkv"}}) {
    ExpectDataLossWith(sound, wrong, tensor, "tensor");
  }
}

TEST_F(BlockStackLoading, RefusesAMissingTensor) {
  for (const char* tensor :
       {"q_proj.weight", "k_proj.bias", "ssm_k_D", "ssm_k_kernel.kernel.B",
        "ssm_k_kernel.kernel.C", "D", "kernel.kernel.B", "kernel.kernel.C",
        "kernel.kernel.log_dt", "kernel.kernel.inv_A_real",
        "kernel.kernel.A_imag", "output_linear.bias"}) {
    ExpectDataLossWithout(Mixer(tensor, 0));
  }
}

TEST_F(BlockStackLoading, RefusesLayersWithOtherNumbersOfStates) {
  tensors_[Mixer("ssm_k_kernel.kernel.B", 1)] =
      FloatTensor({12, 8}, std::vector<float>(12 * 8));
  ExpectDataLoss(Mixer("ssm_k_kernel.kernel.B", 1), "[12, 9]");
}

TEST_F(BlockStackLoading, RefusesATensorOfALayerThatItDoesNotKnow) {
  tensors_[Mixer("Wqkv.weight", 1)] = FloatTensor({1}, {1.0f});
  ExpectDataLoss(Mixer("Wqkv.weight", 1), "not part of");
}

TEST_F(BlockStackLoading, AcceptsRotaryFrequenciesThatFollowFromTheirNumber) {
  Use(Hybrid());
  const std::string name = Mixer("rotary_emb.inv_freq", 0);
  tensors_[name] = FloatTensor({2}, {1.0f, 0.01f});
  EXPECT_TRUE(Load().ok());
  // Of base 500.
  tensors_[name] = FloatTensor({2}, {1.0f, 0.0447f});
  ExpectRefused(absl::StatusCode::kUnimplemented, name, "0.0447");
  tensors_[name] = FloatTensor({3}, {1.0f, 0.1f, 0.01f});
  ExpectDataLoss(name, "expected [2]");
}

TEST_F(BlockStackLoading, RefusesATensorThatIsNotFinite) {
  ExpectRefusedWhereATensorIsNotFinite();
  Use(Hybrid());
  ExpectRefusedWhereATensorIsNotFinite();
}

TEST_F(BlockStackLoading, RefusesAnUntiedModelWithoutAHead) {
  Replace("{", "{\"tie_word_embeddings\":false,");
  ExpectDataLoss("lm_head.weight", "missing");
}

}  // namespace
}  // namespace engram

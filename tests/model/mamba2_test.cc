// Mamba-2 against transformers' Mamba2ForCausalLM and a plain implementation of
// the paper's equations: the folders of tests/golden/mamba2 were written by
// tools/golden/make_mamba2_golden.py.

#include "model/mamba2.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "model/model.h"
#include "tests/model/golden_model.h"
#include "tests/model/model_folder.h"
#include "tests/model/model_loading.h"
#include "tests/support/folders.h"

namespace engram {
namespace {

class Mamba2Golden : public testing::TestWithParam<std::string> {};

TEST_P(Mamba2Golden, LogitsEqualThoseExpected) {
  ExpectGoldenLogits(
      SourceFile(absl::StrCat("tests/golden/mamba2/", GetParam())));
}

INSTANTIATE_TEST_SUITE_P(Folders, Mamba2Golden,
                         testing::Values("odd", "untied_biased", "two_groups",
                                         "three_groups_bf16", "original",
                                         "no_gated_norm", "hybrid",
                                         "hybrid_biased", "hybrid_grouped"),
                         [](const auto& info) { return info.param; });

class Mamba2Loading : public ModelLoading {
 protected:
  Mamba2Loading()
      : ModelLoading(RandomMamba2Config({}), RandomMamba2Tensors({})) {}

  const RandomMamba2Shape shape_;
};

TEST_F(Mamba2Loading, TellsWhatTheModelIs) {
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelInfo& info = (*model)->info();
  EXPECT_EQ(info.family, "mamba2");
  EXPECT_EQ(info.parameters, Elements());
  EXPECT_EQ(info.vocabulary_size, shape_.vocab);
  EXPECT_EQ(info.layers, shape_.layers);
  // Two layers of a window of 3 x (68 + 2 x 6) and 4 heads of 3 x 17, and 19 of
  // the last hidden vector.
  EXPECT_EQ(info.state_bytes, StateBytes({2 * 3 * 80, 2 * 4 * 3 * 17, 19}));
}

TEST_F(Mamba2Loading, RefusesTensorsThatContradictTheConfiguration) {
  for (const auto& [sound, wrong, tensor] : std::vector<Contradiction>{
           {"\"num_heads\":4", "\"num_heads\":6", "mixer.A_log"},
           {"\"head_dim\":17", "\"head_dim\":18", "mixer.in_proj.weight"},
           {"\"n_groups\":2", "\"n_groups\":1", "mixer.in_proj.weight"},
           {"\"state_size\":3", "\"state_size\":4", "mixer.in_proj.weight"},
           {"\"hidden_size\":19", "\"hidden_size\":20", "norm.weight"}}) {
    ExpectDataLossWith(sound, wrong, tensor, "expected [");
  }
}

TEST_F(Mamba2Loading, RefusesAMissingTensor) {
  for (const char* tensor : {"A_log", "D", "dt_bias", "in_proj.weight",
                             "conv1d.weight", "out_proj.weight"}) {
    ExpectDataLossWithout(Mixer(tensor));
  }
}

TEST_F(Mamba2Loading, RefusesATensorOfABlockThatItDoesNotKnow) {
  tensors_[Mixer("x_proj.weight")] = FloatTensor({1}, {1.0f});
  ExpectDataLoss(Mixer("x_proj.weight"), "not part of");
}

TEST_F(Mamba2Loading, RefusesADOfEveryChannel) {
  tensors_[Mixer("D")] = FloatTensor({68}, std::vector<float>(68));
  ExpectRefused(absl::StatusCode::kUnimplemented, Mixer("D"),
                "one per channel");
  tensors_[Mixer("D")] = FloatTensor({5}, std::vector<float>(5));
  ExpectDataLoss(Mixer("D"), "expected [4]");
}

TEST_F(Mamba2Loading, NeedsTheGatedNormThatTheConfigurationStates) {
  const auto state = [this](const char* rms_norm) {
    config_ = RandomMamba2Config(shape_);
    config_.insert(1, absl::StrCat("\"rms_norm\":", rms_norm, ","));
  };
  state("true");
  EXPECT_TRUE(Load().ok());
  state("null");
  EXPECT_TRUE(Load().ok());
  // Hugging Face's class has the norm whatever its configuration says.
  state("false");
  EXPECT_TRUE(Load().ok());

  for (int layer : {0, 1}) tensors_.erase(Mixer("norm.weight", layer));
  EXPECT_TRUE(Load().ok());
  state("null");
  EXPECT_TRUE(Load().ok());
  state("true");
  ExpectDataLoss(Mixer("norm.weight", 0), "missing");
}

TEST_F(Mamba2Loading, RefusesATensorThatIsNotFinite) {
  ExpectRefusedWhereATensorIsNotFinite();
}

TEST_F(Mamba2Loading, RefusesAnUntiedModelWithoutAHead) {
  Replace(",\"tie_word_embeddings\":true", "");
  ExpectDataLoss("lm_head.weight", "missing");
}

// --- Hybrids of Mamba-2 and attention.

class HybridLoading : public ModelLoading {
 protected:
  HybridLoading()
      : ModelLoading(RandomHybridConfig({}), RandomHybridTensors({})) {}

  const RandomHybridShape shape_;
};

TEST_F(HybridLoading, TellsWhatTheModelIsAndWhatItKeeps) {
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelInfo& info = (*model)->info();
  EXPECT_EQ(info.family, "mamba2");
  EXPECT_EQ(info.parameters, Elements());
  EXPECT_EQ(info.layers, 3);
  // Two layers of Mamba-2, with a window of 3 x (24 + 2 x 3) and 3 heads of 3 x
  // 8; one of attention with a window of 2 x (4 + 2 x 2) x 6; and 12 of the
  // last hidden vector.
  EXPECT_EQ(info.state_bytes,
            StateBytes({2 * 3 * 30, 2 * 3 * 3 * 8, 2 * 48, 12}));
  // Keys and values of two heads.
  EXPECT_EQ(info.kv_bytes_per_token, 2 * 2 * 6 * sizeof(float));
}

TEST_F(HybridLoading, RefusesTensorsThatContradictTheConfiguration) {
  for (const auto& [sound, wrong, tensor] : std::vector<Contradiction>{
           {"\"num_heads\":4", "\"num_heads\":2", "1.mixer.in_proj.weight"},
           {"\"num_heads_kv\":2", "\"num_heads_kv\":4",
            "1.mixer.in_proj.weight"},
           {"\"d_conv\":3", "\"d_conv\":0", "1.mixer.conv1d.bias"},
           {"\"d_conv\":3", "\"d_conv\":4", "1.mixer.conv1d.weight"},
           {"\"d_intermediate\":100", "\"d_intermediate\":0", "mlp.fc1.weight"},
           {"\"d_intermediate\":100", "\"d_intermediate\":129",
            "mlp.fc1.weight"},
           {"\"qkv_proj_bias\":true", "\"qkv_proj_bias\":false",
            "1.mixer.in_proj.bias"},
           {"\"attn_layer_idx\":[1]", "\"attn_layer_idx\":[0]", "0.mixer"}}) {
    ExpectDataLossWith(sound, wrong, tensor, "tensor");
  }
}

TEST_F(HybridLoading, RefusesAMissingTensor) {
  for (const std::string name :
       {"mixer.in_proj.bias", "mixer.conv1d.weight", "mixer.conv1d.bias",
        "mixer.out_proj.weight", "norm.weight", "norm2.weight",
        "mlp.fc1.weight", "mlp.fc2.weight"}) {
    ExpectDataLossWithout("backbone.layers.1." + name);
  }
}

TEST_F(HybridLoading, RefusesATensorThatIsNotFinite) {
  ExpectRefusedWhereATensorIsNotFinite();
}

}  // namespace
}  // namespace engram

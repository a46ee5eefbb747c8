// The original layout of config.json, with its hybrids.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "model/model_config.h"
#include "tests/model/config_test_case.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ModelConfig, ReadsTheOriginalLayout) {
  const ModelConfig config = Parsed(
      StateSpaces(R"("ssm_cfg":{},"rms_norm":true,"residual_in_fp32":true,)"
                  R"("fused_add_norm":true,"pad_vocab_size_multiple":8)"));
  EXPECT_EQ(config.family, "mamba");
  EXPECT_EQ(config.d_model, 768);
  EXPECT_EQ(config.layers(), 24);
  EXPECT_EQ(config.vocab, 50280);
  EXPECT_EQ(config.d_inner, 1536);
  EXPECT_EQ(config.d_state, 16);
  EXPECT_EQ(config.d_conv, 4);
  EXPECT_EQ(config.dt_rank, 48);
  EXPECT_FLOAT_EQ(config.norm_epsilon, 1e-5f);
  EXPECT_TRUE(config.tied);
  EXPECT_THAT(config.eos_token_ids, IsEmpty());
}

TEST(ModelConfig, PadsTheVocabularyOfTheOriginalLayout) {
  EXPECT_EQ(Parsed(StateSpaces("")).vocab, 50280);
  EXPECT_EQ(Parsed(StateSpaces(R"("pad_vocab_size_multiple":16)")).vocab,
            50288);
  EXPECT_EQ(Parsed(StateSpaces(R"("pad_vocab_size_multiple":1)")).vocab, 50277);
  ExpectDamaged(StateSpaces(R"("pad_vocab_size_multiple":0)"),
                {"pad_vocab_size_multiple is 0", "1 to 65536"});
}

TEST(ModelConfig, TakesTheMixersNumbersFromSsmCfg) {
  const ModelConfig config = Parsed(StateSpaces(
      R"("ssm_cfg":{"layer":"Mamba1","d_state":8,"d_conv":3,"expand":1.5,)"
      R"("dt_rank":9,"bias":true,"conv_bias":false},"d_state":99,)"
      R"("tie_embeddings":false,"d_intermediate":0,"attn_layer_idx":[])"));
  EXPECT_EQ(config.d_state, 8);
  EXPECT_EQ(config.d_conv, 3);
  EXPECT_EQ(config.d_inner, 1152);
  EXPECT_EQ(config.dt_rank, 9);
  EXPECT_EQ(config.projection_bias, std::optional<bool>(true));
  EXPECT_EQ(config.convolution_bias, std::optional<bool>(false));
  EXPECT_FALSE(config.tied);
}

// --- Hybrids in the original layout.

// With these fields in attn_cfg, beside causal.
std::string Hybrid(const std::string& fields) {
  return StateSpaces(absl::StrCat(
      R"("ssm_cfg":{"layer":"Mamba2"},"attn_layer_idx":[9,18],"attn_cfg":)",
      R"({"causal":true)", fields.empty() ? "" : ",", fields, "}"));
}

TEST(HybridConfig, ReadsThePublishedOne) {
  const ModelConfig config = Parsed(
      R"({"d_model":2560,"d_intermediate":0,"n_layer":64,"vocab_size":50277,
      "ssm_cfg":{"layer":"Mamba2"},"attn_layer_idx":[9,18,27,36,45,56],
      "attn_cfg":{"causal":true,"d_conv":4,"head_dim":128,"num_heads":30,
      "out_proj_bias":false,"qkv_proj_bias":false,"rotary_emb_dim":64},
      "rms_norm":true,"residual_in_fp32":true,"fused_add_norm":true,
      "pad_vocab_size_multiple":16,"tie_embeddings":true})");
  EXPECT_EQ(config.family, "mamba2");
  EXPECT_EQ(config.layers(), 64);
  EXPECT_THAT(config.LayersWith(MixerKind::kAttention),
              ElementsAre(9, 18, 27, 36, 45, 56));
  EXPECT_EQ(config.LayersWith(MixerKind::kMamba2).size(), 58u);
  EXPECT_EQ(config.norm, NormKind::kRms);
  EXPECT_EQ(config.mlp.kind, MlpKind::kNone);
  EXPECT_EQ(config.attention.heads, 30);
  EXPECT_EQ(config.attention.kv_heads, 30);
  EXPECT_EQ(config.attention.head_dim, 128);
  EXPECT_EQ(config.attention.qkv_width(), 11520);
  EXPECT_FLOAT_EQ(config.attention.scale, 0.08838835f);
  EXPECT_EQ(config.attention.rotary_dim, 64);
  EXPECT_EQ(config.attention.rotary_base, 10000);
  EXPECT_EQ(config.attention.d_conv, 4);
  EXPECT_EQ(config.attention.qkv_bias, std::optional<bool>(false));
  EXPECT_EQ(config.attention.output_bias, std::optional<bool>(false));
}

TEST(HybridConfig, TakesTheDefaultsOfTheClass) {
  const AttentionConfig attention =
      Parsed(Hybrid(R"("num_heads":12)")).attention;
  EXPECT_EQ(attention.kv_heads, 12);
  EXPECT_EQ(attention.head_dim, 64);
  EXPECT_FLOAT_EQ(attention.scale, 0.125f);
  EXPECT_EQ(attention.rotary_dim, 0);
  EXPECT_EQ(attention.d_conv, 0);
  EXPECT_EQ(attention.qkv_bias, std::nullopt);
}

TEST(HybridConfig, MixesMambaWithAttentionToo) {
  const ModelConfig config = Parsed(StateSpaces(
      R"("attn_layer_idx":[1],"attn_cfg":{"causal":true,"num_heads":12})"));
  EXPECT_EQ(config.family, "mamba");
  EXPECT_EQ(config.LayersWith(MixerKind::kMamba).size(), 23u);
  EXPECT_THAT(config.LayersWith(MixerKind::kAttention), ElementsAre(1));
}

TEST(HybridConfig, HasGatedMlpsOfARoundWidth) {
  const MlpConfig mlp = Parsed(StateSpaces(R"("d_intermediate":129)")).mlp;
  EXPECT_EQ(mlp.kind, MlpKind::kGated);
  EXPECT_EQ(mlp.width, 256);
  EXPECT_EQ(mlp.hidden(), 512);
  ExpectDamaged(StateSpaces(R"("d_intermediate":-1)"),
                {"d_intermediate is -1"});
}

TEST(HybridConfig, RefusesHeadsThatDoNotFit) {
  ExpectDamaged(Hybrid(""), {"attn_cfg: num_heads is missing"});
  ExpectDamaged(Hybrid(R"("num_heads":7)"), {"num_heads is 7", "768"});
  ExpectDamaged(Hybrid(R"("num_heads":12,"num_heads_kv":5)"),
                {"num_heads_kv is 5", "a divisor of num_heads 12"});
  ExpectDamaged(Hybrid(R"("num_heads":65536,"head_dim":17)"),
                {"head_dim is 17"});
  ExpectDamaged(Hybrid(R"("num_heads":12,"rotary_emb_dim":63)"),
                {"rotary_emb_dim is 63", "an even number up to 64"});
  ExpectDamaged(Hybrid(R"("num_heads":12,"rotary_emb_base":0)"),
                {"rotary_emb_base is 0"});
  ExpectDamaged(Hybrid(R"("num_heads":12,"softmax_scale":-1)"),
                {"softmax_scale is -1"});
  ExpectDamaged(Hybrid(R"("num_heads":12,"d_conv":1)"),
                {"d_conv is 1", "0, or an integer from 2 to 256"});
  ExpectDamaged(StateSpaces(R"("attn_layer_idx":[24])"),
                {"attn_layer_idx is [24]", "from 0 to 23"});
  ExpectDamaged(StateSpaces(R"("attn_layer_idx":[1],"attn_cfg":[])"),
                {"attn_cfg is []"});
}

TEST(HybridConfig, RefusesSettingsThatWouldChangeTheMathematics) {
  ExpectUnsupported(StateSpaces(R"("attn_layer_idx":[3])"),
                    {"attn_cfg: causal is missing", "true"});
  ExpectUnsupported(Hybrid(R"("num_heads":12,"mlp_dim":8)"), {"mlp_dim is 8"});
  ExpectUnsupported(Hybrid(R"("num_heads":12,"rotary_emb_interleaved":true)"),
                    {"rotary_emb_interleaved is true"});
}

}  // namespace
}  // namespace engram

// The layout of config.json of H3 and of the baselines in its skeleton.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "model/model_config.h"
#include "tests/model/config_test_case.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string H3(const std::string& family, const std::string& fields) {
  return absl::StrCat("{\"model_type\":\"", family,
                      "\",\"vocab_size\":50264,\"hidden_size\":768,"
                      "\"num_hidden_layers\":12",
                      fields.empty() ? "" : ",", fields, "}");
}

TEST(ModelConfig, ReadsAReleasedH3) {
  const ModelConfig config = Parsed(H3("h3", R"("attn_layer_idx":[6],
      "num_attention_heads":12,"n_inner":3072,"ssm_mode":"diag",
      "ssm_measure":"diag-lin","rotary_emb_dim":0,"layer_norm_epsilon":1e-5,
      "tie_word_embeddings":true,"eos_token_id":50256)"));
  EXPECT_EQ(config.family, "h3");
  EXPECT_EQ(config.norm, NormKind::kLayer);
  EXPECT_EQ(config.vocab, 50264);
  EXPECT_EQ(config.d_model, 768);
  EXPECT_EQ(config.layers(), 12);
  EXPECT_EQ(config.mlp.width, 3072);
  EXPECT_THAT(config.LayersWith(MixerKind::kAttention), ElementsAre(6));
  EXPECT_EQ(config.attention.heads, 12);
  EXPECT_EQ(config.attention.rotary_dim, 0);
  EXPECT_EQ(config.positions, 0);
  EXPECT_FALSE(config.zero_order_hold);
  EXPECT_TRUE(config.tied);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(50256));
}

TEST(ModelConfig, AnH3IsBilinearWithoutAttentionUnlessItSaysOtherwise) {
  const ModelConfig config = Parsed(H3("h3", ""));
  EXPECT_THAT(config.LayersWith(MixerKind::kAttention), IsEmpty());
  EXPECT_EQ(config.mlp.width, 4 * 768);
  EXPECT_THAT(config.eos_token_ids, IsEmpty());
  EXPECT_FALSE(config.zero_order_hold);
  EXPECT_TRUE(Parsed(H3("h3", R"("ssm_disc":"zoh")")).zero_order_hold);
  EXPECT_FALSE(Parsed(H3("h3", R"("ssm_disc":"bilinear")")).zero_order_hold);
}

TEST(ModelConfig, S4dHasZeroOrderHoldAndNoAttention) {
  const ModelConfig config = Parsed(H3("s4d", R"("n_inner":0)"));
  EXPECT_EQ(config.family, "s4d");
  EXPECT_TRUE(config.zero_order_hold);
  EXPECT_EQ(config.mlp.width, 0);
  ExpectUnsupported(H3("s4d", R"("ssm_disc":"bilinear")"), {"ssm_disc", "zoh"});
  ExpectUnsupported(H3("s4d", R"("attn_layer_idx":[1])"), {"attn_layer_idx"});
}

TEST(ModelConfig, EveryLayerOfAnAttentionModelIsOne) {
  const ModelConfig config = Parsed(H3(
      "attention", R"("num_attention_heads":8,"max_position_embeddings":32)"));
  EXPECT_EQ(config.family, "attention");
  EXPECT_EQ(config.LayersWith(MixerKind::kAttention).size(), 12u);
  EXPECT_EQ(config.attention.heads, 8);
  EXPECT_EQ(config.positions, 32);
}

TEST(ModelConfig, RefusesLayersThatCannotBe) {
  for (const char* layers :
       {"[12]", "[-1]", "[3,3]", "[1.5]", "\"all\"", "7"}) {
    ExpectDamaged(H3("h3", absl::StrCat("\"num_attention_heads\":12,"
                                        "\"attn_layer_idx\":",
                                        layers)),
                  {"attn_layer_idx is", "from 0 to 11"});
  }
}

TEST(ModelConfig, RefusesHeadsAndRotationsThatDoNotFit) {
  const auto hybrid = [](const std::string& fields) {
    return H3("h3", absl::StrCat("\"attn_layer_idx\":[6],", fields));
  };
  ExpectDamaged(hybrid(R"("n_inner":8)"), {"num_attention_heads is missing"});
  ExpectDamaged(hybrid(R"("num_attention_heads":7)"),
                {"num_attention_heads is 7", "a divisor of hidden_size 768"});
  ExpectDamaged(hybrid(R"("num_attention_heads":12,"rotary_emb_dim":65)"),
                {"rotary_emb_dim is 65", "64"});
  ExpectDamaged(hybrid(R"("num_attention_heads":12,"rotary_emb_dim":63)"),
                {"rotary_emb_dim is 63", "an even number up to 64"});
}

TEST(ModelConfig, RefusesWhatItsMixersCannotDo) {
  ExpectUnsupported(H3("h3", R"("ssm_mode":"nplr")"), {"ssm_mode"});
  ExpectUnsupported(H3("h3", R"("ssm_disc":"dss")"), {"ssm_disc"});
  ExpectUnsupported(H3("h3", R"("max_position_embeddings":99)"),
                    {"max_position_embeddings is 99"});
  ExpectDamaged(R"({"model_type":"h3","hidden_size":8,"num_hidden_layers":1})",
                {"vocab_size is missing"});
}

}  // namespace
}  // namespace engram

#include "model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "tests/model/model_folder.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::StatusOr<ModelConfig> Parse(const std::string& config,
                                  const std::string& generation = "") {
  return ParseModelConfig(config, generation, "folder");
}

ModelConfig Parsed(const std::string& config,
                   const std::string& generation = "") {
  auto parsed = Parse(config, generation);
  ENGRAM_CHECK_OK(parsed.status());
  return std::move(*parsed);
}

// A configuration of Hugging Face's layout with these fields besides.
std::string HuggingFace(const std::string& fields) {
  return absl::StrCat("{\"model_type\":\"mamba\"", fields.empty() ? "" : ",",
                      fields, "}");
}

// One of the original layout.
std::string StateSpaces(const std::string& fields) {
  return absl::StrCat("{\"d_model\":768,\"n_layer\":24,\"vocab_size\":50277",
                      fields.empty() ? "" : ",", fields, "}");
}

void ExpectRefused(const std::string& config, absl::StatusCode code,
                   const std::vector<std::string>& parts) {
  const absl::Status status = Parse(config).status();
  EXPECT_EQ(status.code(), code) << config << ": " << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("folder/config.json"));
  for (const std::string& part : parts) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

void ExpectDamaged(const std::string& config,
                   const std::vector<std::string>& parts) {
  ExpectRefused(config, absl::StatusCode::kDataLoss, parts);
}

void ExpectUnsupported(const std::string& config,
                       const std::vector<std::string>& parts) {
  ExpectRefused(config, absl::StatusCode::kUnimplemented, parts);
}

// --- Hugging Face's layout.

TEST(ModelConfig, ReadsHuggingFacesLayout) {
  const ModelConfig config = Parsed(HuggingFace(
      R"("vocab_size":61,"hidden_size":37,"num_hidden_layers":2,)"
      R"("state_size":5,"expand":3,"conv_kernel":3,"time_step_rank":7,)"
      R"("use_bias":true,"use_conv_bias":false,"layer_norm_epsilon":1e-3,)"
      R"("tie_word_embeddings":false,"hidden_act":"silu","bos_token_id":4,)"
      R"("eos_token_id":3,"residual_in_fp32":true,"unheard_of":[{}])"));
  EXPECT_EQ(config.family, "mamba");
  EXPECT_EQ(config.vocab, 61);
  EXPECT_EQ(config.d_model, 37);
  EXPECT_EQ(config.layers(), 2);
  EXPECT_EQ(config.d_state, 5);
  EXPECT_EQ(config.d_inner, 111);
  EXPECT_EQ(config.d_conv, 3);
  EXPECT_EQ(config.dt_rank, 7);
  EXPECT_EQ(config.projection_bias, std::optional<bool>(true));
  EXPECT_EQ(config.convolution_bias, std::optional<bool>(false));
  EXPECT_FLOAT_EQ(config.norm_epsilon, 1e-3f);
  EXPECT_FALSE(config.tied);
  EXPECT_EQ(config.bos_token_id, std::optional<int32_t>(4));
  EXPECT_THAT(config.eos_token_ids, ElementsAre(3));
}

TEST(ModelConfig, FillsMissingFieldsWithTheDefaultsOfTheClass) {
  const ModelConfig config = Parsed(HuggingFace(""));
  EXPECT_EQ(config.vocab, 50280);
  EXPECT_EQ(config.d_model, 768);
  EXPECT_EQ(config.layers(), 32);
  EXPECT_EQ(config.d_state, 16);
  EXPECT_EQ(config.d_inner, 1536);
  EXPECT_EQ(config.d_conv, 4);
  EXPECT_EQ(config.dt_rank, 48);
  EXPECT_FLOAT_EQ(config.norm_epsilon, 1e-5f);
  EXPECT_TRUE(config.tied);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(0));
  EXPECT_EQ(config.bos_token_id, std::nullopt);
}

TEST(ModelConfig, LeavesBiasesOpenThatTheFileDoesNotState) {
  const ModelConfig config = Parsed(HuggingFace(R"("use_bias":null)"));
  EXPECT_EQ(config.projection_bias, std::nullopt);
  EXPECT_EQ(config.convolution_bias, std::nullopt);
}

TEST(ModelConfig, NeverUsesDInner) {
  EXPECT_EQ(
      Parsed(HuggingFace(R"("hidden_size":1024,"d_inner":160,"n_layer":3,)"
                         R"("d_model":5,"intermediate_size":7)"))
          .d_inner,
      2048);
}

TEST(ModelConfig, CutsAFractionalExpand) {
  EXPECT_EQ(Parsed(HuggingFace(R"("hidden_size":37,"expand":1.5)")).d_inner,
            55);
}

TEST(ModelConfig, ComputesARankThatIsAuto) {
  EXPECT_EQ(Parsed(HuggingFace(R"("hidden_size":33,"time_step_rank":"auto")"))
                .dt_rank,
            3);
  ExpectDamaged(HuggingFace(R"("time_step_rank":"many")"),
                {"time_step_rank", "many", "auto"});
}

TEST(ModelConfig, ReadsBareNonFiniteNumbers) {
  EXPECT_EQ(Parsed(HuggingFace(R"("time_step_limit":[0.0, Infinity],)"
                               R"("a":-Infinity,"b":NaN,"hidden_size":64)"))
                .d_model,
            64);
}

TEST(ModelConfig, ReadsNonFiniteNumbersThatAreWrapped) {
  EXPECT_EQ(
      Parsed(HuggingFace(R"("time_step_limit":[0.0,{"__float__":"Infinity"}],)"
                         R"("hidden_size":64)"))
          .d_model,
      64);
}

TEST(ModelConfig, LeavesInfinityInStringsAlone) {
  ExpectUnsupported(
      HuggingFace(R"("note\"Infinity":"\\","hidden_act":"Infinity")"),
      {"hidden_act is \"Infinity\";"});
}

TEST(ModelConfig, RefusesInfinityWhereANumberIsWanted) {
  ExpectDamaged(HuggingFace(R"("hidden_size":Infinity)"),
                {"hidden_size", "Infinity", "1 to 65536"});
  ExpectDamaged(HuggingFace(R"("expand":NaN)"), {"expand"});
}

// --- Ends of sequence.

TEST(ModelConfig, ReadsEndsOfSequenceOfEveryForm) {
  EXPECT_THAT(Parsed(HuggingFace(R"("eos_token_id":5)")).eos_token_ids,
              ElementsAre(5));
  EXPECT_THAT(Parsed(HuggingFace(R"("eos_token_id":[7,5,7])")).eos_token_ids,
              ElementsAre(5, 7));
  EXPECT_THAT(Parsed(HuggingFace(R"("eos_token_id":null)")).eos_token_ids,
              IsEmpty());
  EXPECT_THAT(Parsed(HuggingFace(R"("eos_token_id":[])")).eos_token_ids,
              IsEmpty());
}

TEST(ModelConfig, AddsTheEndsOfSequenceOfTheGenerationConfig) {
  EXPECT_THAT(
      Parsed(HuggingFace(R"("eos_token_id":5)"), R"({"eos_token_id":[2,5]})")
          .eos_token_ids,
      ElementsAre(2, 5));
  // The class default does not stand beside an id that a file states.
  EXPECT_THAT(Parsed(HuggingFace(""), R"({"eos_token_id":2})").eos_token_ids,
              ElementsAre(2));
  EXPECT_THAT(Parsed(HuggingFace(""), R"({"top_k":50})").eos_token_ids,
              ElementsAre(0));
}

TEST(ModelConfig, RefusesEndsOfSequenceThatAreNoIds) {
  for (const char* ids : {"1.0", "\"0\"", "[[0]]", "{}", "true"}) {
    ExpectDamaged(HuggingFace(absl::StrCat("\"eos_token_id\":", ids)),
                  {"eos_token_id", "0 to 50279"});
  }
}

TEST(ModelConfig, IgnoresIdsThatNoTokenHasWithAWarning) {
  for (const char* ids : {"-1", "50280", "18446744073709551615"}) {
    for (const std::string field : {"eos_token_id", "bos_token_id"}) {
      const ModelConfig config =
          Parsed(HuggingFace(absl::StrCat("\"", field, "\":", ids)));
      EXPECT_EQ(config.bos_token_id, std::nullopt);
      // There is an end by default only where none is named.
      EXPECT_EQ(config.eos_token_ids.empty(), field == "eos_token_id");
      EXPECT_THAT(config.warnings,
                  ElementsAre(AllOf(HasSubstr(field), HasSubstr(ids),
                                    HasSubstr("from 0 to 50279"))));
    }
  }
  const ModelConfig some =
      Parsed(HuggingFace(R"("eos_token_id":[3,-1,60000])"), "{}");
  EXPECT_THAT(some.eos_token_ids, ElementsAre(3));
  EXPECT_EQ(some.warnings.size(), 2u);
  for (const char* id : {"50280", "-1"}) {
    const ModelConfig config =
        Parsed(HuggingFace(""), absl::StrCat("{\"eos_token_id\":", id, "}"));
    EXPECT_THAT(config.eos_token_ids, IsEmpty());
    EXPECT_THAT(config.warnings,
                ElementsAre(HasSubstr("generation_config.json")));
  }
}

TEST(ModelConfig, TakesSwishForSilu) {
  EXPECT_THAT(Parsed(HuggingFace(R"("hidden_act":"swish")")).warnings,
              IsEmpty());
}

TEST(ModelConfig, NamesAModelThatWasQuantised) {
  ExpectUnsupported(
      HuggingFace(R"("quantization_config":{"quant_method":"bitsandbytes"})"),
      {"quantization_config", "bitsandbytes", "before it was quantised"});
}

TEST(ModelConfig, RefusesADamagedGenerationConfig) {
  for (const char* generation : {"{", "[]", R"({"eos_token_id":0.5})"}) {
    const absl::Status status = Parse(HuggingFace(""), generation).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("folder/generation_config.json"));
  }
}

// --- The original layout.

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

// --- Mamba-2.

// A Mamba-2 of Hugging Face's layout.
std::string HuggingFace2(const std::string& fields) {
  return absl::StrCat("{\"model_type\":\"mamba2\"", fields.empty() ? "" : ",",
                      fields, "}");
}

// One of the original layout with these fields in ssm_cfg.
std::string StateSpaces2(const std::string& fields) {
  return StateSpaces(absl::StrCat("\"ssm_cfg\":{\"layer\":\"Mamba2\"",
                                  fields.empty() ? "" : ",", fields, "}"));
}

TEST(Mamba2Config, ReadsHuggingFacesLayout) {
  const ModelConfig config = Parsed(HuggingFace2(
      R"("vocab_size":61,"hidden_size":35,"num_hidden_layers":2,)"
      R"("state_size":11,"expand":3,"conv_kernel":3,"num_heads":6,)"
      R"("head_dim":15,"n_groups":2,"time_step_limit":[0.1,1.5],)"
      R"("use_bias":true,"use_conv_bias":false,"layer_norm_epsilon":1e-3,)"
      R"("tie_word_embeddings":true,"rms_norm":false,"eos_token_id":3)"));
  EXPECT_EQ(config.family, "mamba2");
  EXPECT_EQ(config.vocab, 61);
  EXPECT_EQ(config.d_model, 35);
  EXPECT_EQ(config.layers(), 2);
  EXPECT_EQ(config.d_state, 11);
  EXPECT_EQ(config.d_conv, 3);
  EXPECT_EQ(config.mamba2.heads, 6);
  EXPECT_EQ(config.mamba2.head_dim, 15);
  EXPECT_EQ(config.mamba2.groups, 2);
  EXPECT_FLOAT_EQ(config.mamba2.dt_min, 0.1f);
  EXPECT_FLOAT_EQ(config.mamba2.dt_max, 1.5f);
  EXPECT_EQ(config.mamba2.gated_norm, std::nullopt);
  EXPECT_THAT(config.warnings, ElementsAre(HasSubstr("rms_norm is false")));
  EXPECT_EQ(config.projection_bias, std::optional<bool>(true));
  EXPECT_EQ(config.convolution_bias, std::optional<bool>(false));
  EXPECT_FLOAT_EQ(config.norm_epsilon, 1e-3f);
  EXPECT_TRUE(config.tied);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(3));
}

TEST(Mamba2Config, FillsMissingFieldsWithTheDefaultsOfTheClass) {
  const ModelConfig config = Parsed(HuggingFace2(""));
  EXPECT_EQ(config.vocab, 32768);
  EXPECT_EQ(config.d_model, 4096);
  EXPECT_EQ(config.layers(), 64);
  EXPECT_EQ(config.d_state, 128);
  EXPECT_EQ(config.d_conv, 4);
  EXPECT_EQ(config.d_inner, 8192);
  EXPECT_EQ(config.mamba2.heads, 128);
  EXPECT_EQ(config.mamba2.head_dim, 64);
  EXPECT_EQ(config.mamba2.groups, 8);
  EXPECT_EQ(config.mamba2.dt_min, 0.0f);
  EXPECT_TRUE(std::isinf(config.mamba2.dt_max));
  EXPECT_EQ(config.mamba2.gated_norm, std::nullopt);
  EXPECT_FALSE(config.tied);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2));
  // An id that this vocabulary does not have ends nothing.
  EXPECT_THAT(Parsed(HuggingFace2(R"("vocab_size":2)")).eos_token_ids,
              IsEmpty());
}

TEST(Mamba2Config, IgnoresWhatHuggingFacesClassIgnores) {
  const ModelConfig config = Parsed(HuggingFace2(
      R"("norm_before_gate":true,"expand":1.5,"d_inner":160,"num_heads":24,)"
      R"("n_groups":1,"chunk_size":7,"time_step_rank":"auto")"));
  EXPECT_EQ(config.d_inner, 24 * 64);
}

TEST(Mamba2Config, ReadsTheOriginalLayout) {
  const ModelConfig config = Parsed(StateSpaces2(""));
  EXPECT_EQ(config.family, "mamba2");
  EXPECT_EQ(config.d_inner, 1536);
  EXPECT_EQ(config.d_state, 128);
  EXPECT_EQ(config.mamba2.heads, 24);
  EXPECT_EQ(config.mamba2.head_dim, 64);
  EXPECT_EQ(config.mamba2.groups, 1);
  EXPECT_TRUE(config.tied);
  const Mamba2Config changed =
      Parsed(StateSpaces2(R"("headdim":32,"ngroups":4,"dt_limit":[0.5,2],)"
                          R"("rmsnorm":false,"activation":"swish",)"
                          R"("d_ssm":1536,"D_has_hdim":false,"bias":false)"))
          .mamba2;
  EXPECT_EQ(changed.heads, 48);
  EXPECT_EQ(changed.head_dim, 32);
  EXPECT_EQ(changed.groups, 4);
  EXPECT_EQ(changed.dt_min, 0.5f);
  EXPECT_EQ(changed.dt_max, 2.0f);
  EXPECT_EQ(changed.gated_norm, std::optional<bool>(false));
}

TEST(Mamba2Config, ReadsInfinityInBothForms) {
  for (const char* infinity : {"Infinity", R"({"__float__":"Infinity"})"}) {
    const std::string limit = absl::StrCat("[0.25, ", infinity, "]");
    for (const std::string& config :
         {HuggingFace2("\"time_step_limit\":" + limit),
          StateSpaces2("\"dt_limit\":" + limit)}) {
      EXPECT_EQ(Parsed(config).mamba2.dt_min, 0.25f);
      EXPECT_TRUE(std::isinf(Parsed(config).mamba2.dt_max));
    }
  }
}

// A step is never below 0.
TEST(Mamba2Config, TakesALowerLimitBelowZeroForZero) {
  const Mamba2Config config =
      Parsed(HuggingFace2("\"time_step_limit\":[-1,1]")).mamba2;
  EXPECT_EQ(config.dt_min, 0.0f);
  EXPECT_EQ(config.dt_max, 1.0f);
}

TEST(Mamba2Config, TakesLimitsThatBoundNothing) {
  for (const char* limit :
       {"[0.0,3.4e38]", "[0,1e300]", "[-1,Infinity]", "[-Infinity,Infinity]"}) {
    const Mamba2Config config =
        Parsed(HuggingFace2(absl::StrCat("\"time_step_limit\":", limit)))
            .mamba2;
    EXPECT_EQ(config.dt_min, 0.0f) << limit;
    EXPECT_GE(config.dt_max, 3.4e38f) << limit;
  }
}

TEST(Mamba2Config, RefusesLimitsThatAreNoRange) {
  for (const char* limit :
       {"[1,0.5]", "[0]", "[0,1,2]", "[NaN,1]", "[0,NaN]", "[0,\"1\"]", "7",
        "{}", "[Infinity,Infinity]", "[0,-Infinity]", "[-2,-1]", "[1e7,1e8]",
        "[null,1]"}) {
    ExpectDamaged(HuggingFace2(absl::StrCat("\"time_step_limit\":", limit)),
                  {"time_step_limit is ", "low <= high"});
  }
}

TEST(Mamba2Config, RefusesHeadsThatDoNotFit) {
  ExpectDamaged(HuggingFace2(R"("num_heads":9,"n_groups":2)"),
                {"n_groups is 2", "a divisor of 9 heads"});
  // The class default of 8 groups, beside heads that it does not divide.
  ExpectDamaged(HuggingFace2(R"("num_heads":9)"),
                {"n_groups is missing", "a divisor of 9 heads"});
  ExpectDamaged(StateSpaces2(R"("headdim":100)"),
                {"ssm_cfg: headdim is 100", "a divisor of d_inner 1536"});
  ExpectDamaged(StateSpaces2(R"("ngroups":5)"), {"ssm_cfg: ngroups is 5"});
  for (const char* field : {"num_heads", "head_dim", "n_groups"}) {
    for (const char* value : {"0", "-1", "1.5", "9223372036854775807", "[]"}) {
      ExpectDamaged(HuggingFace2(absl::StrCat("\"", field, "\":", value)),
                    {absl::StrCat(field, " is "), "an integer from"});
    }
  }
  ExpectDamaged(HuggingFace2(R"("num_heads":65536,"head_dim":17)"),
                {"head_dim is 17"});
}

TEST(Mamba2Config, RefusesSettingsThatWouldChangeTheMathematics) {
  ExpectUnsupported(HuggingFace2(R"("hidden_act":"gelu")"), {"hidden_act"});
  ExpectUnsupported(StateSpaces2(R"("D_has_hdim":true)"), {"D_has_hdim"});
  ExpectUnsupported(StateSpaces2(R"("norm_before_gate":true)"),
                    {"norm_before_gate"});
  ExpectUnsupported(StateSpaces2(R"("activation":"relu")"), {"activation"});
  ExpectUnsupported(StateSpaces2(R"("d_ssm":64)"), {"d_ssm is 64", "1536"});
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

// --- H3 and the baselines in its skeleton.

std::string MixerStack(const std::string& family, const std::string& fields) {
  return absl::StrCat("{\"model_type\":\"", family,
                      "\",\"vocab_size\":50264,\"hidden_size\":768,"
                      "\"num_hidden_layers\":12",
                      fields.empty() ? "" : ",", fields, "}");
}

TEST(ModelConfig, ReadsAReleasedH3) {
  const ModelConfig config = Parsed(MixerStack("h3", R"("attn_layer_idx":[6],
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
  const ModelConfig config = Parsed(MixerStack("h3", ""));
  EXPECT_THAT(config.LayersWith(MixerKind::kAttention), IsEmpty());
  EXPECT_EQ(config.mlp.width, 4 * 768);
  EXPECT_THAT(config.eos_token_ids, IsEmpty());
  EXPECT_FALSE(config.zero_order_hold);
  EXPECT_TRUE(Parsed(MixerStack("h3", R"("ssm_disc":"zoh")")).zero_order_hold);
  EXPECT_FALSE(
      Parsed(MixerStack("h3", R"("ssm_disc":"bilinear")")).zero_order_hold);
}

TEST(ModelConfig, S4dHasZeroOrderHoldAndNoAttention) {
  const ModelConfig config = Parsed(MixerStack("s4d", R"("n_inner":0)"));
  EXPECT_EQ(config.family, "s4d");
  EXPECT_TRUE(config.zero_order_hold);
  EXPECT_EQ(config.mlp.width, 0);
  ExpectUnsupported(MixerStack("s4d", R"("ssm_disc":"bilinear")"),
                    {"ssm_disc", "zoh"});
  ExpectUnsupported(MixerStack("s4d", R"("attn_layer_idx":[1])"),
                    {"attn_layer_idx"});
}

TEST(ModelConfig, EveryLayerOfAnAttentionModelIsOne) {
  const ModelConfig config = Parsed(MixerStack(
      "attention", R"("num_attention_heads":8,"max_position_embeddings":32)"));
  EXPECT_EQ(config.family, "attention");
  EXPECT_EQ(config.LayersWith(MixerKind::kAttention).size(), 12u);
  EXPECT_EQ(config.attention.heads, 8);
  EXPECT_EQ(config.positions, 32);
}

TEST(ModelConfig, RefusesLayersThatCannotBe) {
  for (const char* layers :
       {"[12]", "[-1]", "[3,3]", "[1.5]", "\"all\"", "7"}) {
    ExpectDamaged(MixerStack("h3", absl::StrCat("\"num_attention_heads\":12,"
                                                "\"attn_layer_idx\":",
                                                layers)),
                  {"attn_layer_idx is", "from 0 to 11"});
  }
}

TEST(ModelConfig, RefusesHeadsAndRotationsThatDoNotFit) {
  const auto hybrid = [](const std::string& fields) {
    return MixerStack("h3", absl::StrCat("\"attn_layer_idx\":[6],", fields));
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
  ExpectUnsupported(MixerStack("h3", R"("ssm_mode":"nplr")"), {"ssm_mode"});
  ExpectUnsupported(MixerStack("h3", R"("ssm_disc":"dss")"), {"ssm_disc"});
  ExpectUnsupported(MixerStack("h3", R"("max_position_embeddings":99)"),
                    {"max_position_embeddings is 99"});
  ExpectDamaged(R"({"model_type":"h3","hidden_size":8,"num_hidden_layers":1})",
                {"vocab_size is missing"});
}

// --- What is not supported.

TEST(ModelConfig, NamesTheArchitectureThatItDoesNotHave) {
  for (const char* type : {"falcon_mamba", "hyena", "llama"}) {
    ExpectUnsupported(
        absl::StrCat("{\"model_type\":\"", type, "\"}"),
        {absl::StrCat("model_type is \"", type, "\""), "supported: Mamba"});
  }
  ExpectUnsupported(R"({"model_type":7})", {"model_type is 7"});
  ExpectUnsupported("{}", {"neither model_type nor d_model"});
  ExpectUnsupported(StateSpaces(R"("ssm_cfg":{"layer":"Mamba3"})"),
                    {"layer is \"Mamba3\"", "\"Mamba1\", \"Mamba2\""});
}

TEST(ModelConfig, RefusesSettingsThatWouldChangeTheMathematics) {
  ExpectUnsupported(HuggingFace(R"("hidden_act":"gelu")"),
                    {"hidden_act", "gelu", "silu"});
  ExpectUnsupported(StateSpaces(R"("rms_norm":false)"), {"rms_norm"});
}

// --- Damaged files.

TEST(ModelConfig, RefusesNumbersOutOfTheirLimits) {
  for (const char* field : {"vocab_size", "hidden_size", "num_hidden_layers",
                            "state_size", "conv_kernel", "time_step_rank"}) {
    for (const char* value : {"0", "-1", "1e3", "1.5", "9223372036854775807",
                              "18446744073709551615", "[]", "{}", "false"}) {
      ExpectDamaged(HuggingFace(absl::StrCat("\"", field, "\":", value)),
                    {absl::StrCat(field, " is "), "expected an integer from"});
    }
  }
  ExpectDamaged(HuggingFace(R"("hidden_size":"768")"),
                {"hidden_size is \"768\""});
}

TEST(ModelConfig, RefusesNumbersOfTheOriginalLayoutOutOfTheirLimits) {
  ExpectDamaged(R"({"d_model":0,"n_layer":1,"vocab_size":8})", {"d_model"});
  ExpectDamaged(R"({"d_model":8,"n_layer":-1,"vocab_size":8})", {"n_layer"});
  ExpectDamaged(R"({"d_model":8,"n_layer":1})", {"vocab_size is missing"});
  ExpectDamaged(StateSpaces(R"("ssm_cfg":{"d_state":0})"),
                {"ssm_cfg: d_state is 0"});
  ExpectDamaged(StateSpaces(R"("ssm_cfg":[])"), {"ssm_cfg is []"});
}

TEST(ModelConfig, RefusesFactorsOutOfTheirLimits) {
  for (const char* value : {"0", "-2", "1e9", "\"2\"", "1e-15", "[]"}) {
    ExpectDamaged(HuggingFace(absl::StrCat("\"expand\":", value)),
                  {"expand is "});
    ExpectDamaged(HuggingFace(absl::StrCat("\"layer_norm_epsilon\":", value)),
                  {"layer_norm_epsilon is "});
  }
  ExpectDamaged(HuggingFace(R"("hidden_size":65536,"expand":64)"),
                {"expand is 64", "d_inner from 1 to 1048576"});
  ExpectDamaged(HuggingFace(R"("hidden_size":1,"expand":0.5)"),
                {"expand is 0.5"});
}

TEST(ModelConfig, RefusesSwitchesThatAreNoBooleans) {
  for (const char* field :
       {"use_bias", "use_conv_bias", "tie_word_embeddings"}) {
    ExpectDamaged(HuggingFace(absl::StrCat("\"", field, "\":1")),
                  {absl::StrCat(field, " is 1"), "true or false"});
  }
}

TEST(ModelConfig, RefusesWhatIsNoJsonObject) {
  for (const char* text :
       {"", "[]", "{", "7", "{\"a\":1,\"a\":2}", "\xff", "{\"a\":Infinit}"}) {
    ExpectDamaged(text, {});
  }
}

// --- The folder.

TEST(LoadModelConfig, ReadsBothFiles) {
  TemporaryFolder folder;
  folder.Write("config.json", HuggingFace(R"("eos_token_id":3)"));
  EXPECT_THAT(LoadModelConfig(folder.path()).value().eos_token_ids,
              ElementsAre(3));
  folder.Write("generation_config.json", R"({"eos_token_id":4})");
  EXPECT_THAT(LoadModelConfig(folder.path()).value().eos_token_ids,
              ElementsAre(3, 4));
}

TEST(LoadModelConfig, SaysThatThereIsNoFile) {
  TemporaryFolder folder;
  const absl::Status status = LoadModelConfig(folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("config.json"));
}

TEST(LoadModelConfig, NamesAFileThatIsGivenForAFolder) {
  TemporaryFolder folder;
  folder.Write("model.safetensors", "x");
  const absl::Status status =
      LoadModelConfig(folder.path() + "/model.safetensors").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("is a file, expected the folder"));
}

TEST(LoadModelConfig, RefusesAFileThatIsTooLong) {
  TemporaryFolder folder;
  folder.Write("config.json", HuggingFace("") + std::string(17 << 20, ' '));
  const absl::Status status = LoadModelConfig(folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("limit 16777216"));
}

TEST(LoadModelConfig, RefusesAFolderInPlaceOfTheFile) {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder.path() + "/config.json");
  EXPECT_EQ(LoadModelConfig(folder.path()).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace engram

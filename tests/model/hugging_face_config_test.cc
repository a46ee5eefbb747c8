// Hugging Face's layout of config.json, of Mamba and of Mamba-2; and of Mamba-2
// the original one.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/model_config.h"
#include "tests/model/config_test_case.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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

}  // namespace
}  // namespace engram

#include "model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  EXPECT_EQ(config.family, ModelFamily::kMamba);
  EXPECT_EQ(config.vocab, 61);
  EXPECT_EQ(config.d_model, 37);
  EXPECT_EQ(config.layers, 2);
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
  EXPECT_EQ(config.layers, 32);
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
  for (const char* ids : {"-1", "50280", "1.0", "\"0\"", "[0,-1]", "[[0]]",
                          "{}", "true", "18446744073709551615"}) {
    ExpectDamaged(HuggingFace(absl::StrCat("\"eos_token_id\":", ids)),
                  {"eos_token_id", "0 to 50279"});
  }
}

TEST(ModelConfig, RefusesADamagedGenerationConfig) {
  for (const char* generation : {"{", "[]", R"({"eos_token_id":-1})"}) {
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
  EXPECT_EQ(config.family, ModelFamily::kMamba);
  EXPECT_EQ(config.d_model, 768);
  EXPECT_EQ(config.layers, 24);
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

// --- What is not supported.

TEST(ModelConfig, NamesTheArchitectureThatItDoesNotHave) {
  for (const char* type : {"mamba2", "falcon_mamba", "h3", "llama"}) {
    ExpectUnsupported(
        absl::StrCat("{\"model_type\":\"", type, "\"}"),
        {absl::StrCat("model_type is \"", type, "\""), "supported: Mamba"});
  }
  ExpectUnsupported(R"({"model_type":7})", {"model_type is 7"});
  ExpectUnsupported("{}", {"neither model_type nor d_model"});
  ExpectUnsupported(StateSpaces(R"("ssm_cfg":{"layer":"Mamba2"})"),
                    {"layer is \"Mamba2\"", "\"Mamba1\""});
}

TEST(ModelConfig, RefusesSettingsThatWouldChangeTheMathematics) {
  ExpectUnsupported(HuggingFace(R"("hidden_act":"gelu")"),
                    {"hidden_act", "gelu", "silu"});
  ExpectUnsupported(StateSpaces(R"("d_intermediate":8)"), {"d_intermediate"});
  ExpectUnsupported(StateSpaces(R"("rms_norm":false)"), {"rms_norm"});
  ExpectUnsupported(StateSpaces(R"("attn_layer_idx":[3])"), {"attn_layer_idx"});
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

#include "model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/model/config_test_case.h"
#include "tests/support/temporary_folder.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(ModelConfig, ReadsTheLengthThatAModelWasTrainedOnIfTheFileTells) {
  EXPECT_EQ(Parsed(HuggingFace("")).trained_tokens, 0);
  EXPECT_EQ(Parsed(HuggingFace(R"("trained_tokens":256)")).trained_tokens, 256);
  EXPECT_EQ(
      Parsed(HuggingFace(R"("max_position_embeddings":2048)")).trained_tokens,
      2048);
  EXPECT_EQ(
      Parsed(HuggingFace(R"("max_position_embeddings":9,"trained_tokens":7)"))
          .trained_tokens,
      7);
  for (const char* const none :
       {"0", "-1", "null", "\"far\"", "1.5", "18446744073709551615"}) {
    EXPECT_EQ(Parsed(HuggingFace(absl::StrCat("\"trained_tokens\":", none)))
                  .trained_tokens,
              0)
        << none;
  }
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

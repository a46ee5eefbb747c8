#include "model/load_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "tests/model/golden_model.h"
#include "tests/model/model_folder.h"
#include "tests/model/step.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/forwarding_backend.h"
#include "tests/support/temporary_folder.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr ModelLimits kLimits = {
    .slots = 1, .max_batch_tokens = 8, .max_logits_rows = 2};

// Words with one token of this content added, as id 2.
std::string WordsAnd(const std::string& token, bool special) {
  return absl::StrCat(
      R"({"version":"1.0","added_tokens":[{"id":2,"content":")", token,
      R"(","single_word":false,"lstrip":false,"rstrip":false,)",
      R"("normalized":false,"special":)", special ? "true" : "false",
      R"(}],"normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},)",
      R"("post_processor":null,"decoder":null,"model":{"type":"WordLevel",)",
      R"("vocab":{"a":0,"b":1},"unk_token":"a"}})");
}

// The original layout, whose configuration knows no end of text.
class LoadModelTest : public testing::Test {
 protected:
  LoadModelTest() {
    folder_.Write("config.json", RandomHybridConfig({}));
    folder_.Write("model.safetensors",
                  SafetensorsFile(RandomHybridTensors({})));
  }

  LoadedModel Load() {
    const auto opened = ModelFolder::Open(folder_.path());
    ENGRAM_CHECK_OK(opened.status());
    auto loaded = (*opened)->Load(backend_.get(), kLimits);
    ENGRAM_CHECK_OK(loaded.status());
    return std::move(*loaded);
  }

  TemporaryFolder folder_;
  const std::unique_ptr<Backend> backend_ = TwoThreadBackend();
};

TEST_F(LoadModelTest, AFolderWithoutATokenizerIsAModelOfIds) {
  const LoadedModel loaded = Load();
  EXPECT_NE(loaded.model, nullptr);
  EXPECT_EQ(loaded.tokenizer, nullptr);
  EXPECT_THAT(loaded.eos_token_ids, IsEmpty());
  EXPECT_THAT(loaded.warnings, IsEmpty());
}

TEST_F(LoadModelTest, WhereTheConfigurationKnowsNoEndOfTextTheTokenizerDoes) {
  folder_.Write("tokenizer.json", WordsAnd("<|endoftext|>", true));
  EXPECT_THAT(Load().eos_token_ids, ElementsAre(2));
  // A word that only looks like it ends nothing.
  folder_.Write("tokenizer.json", WordsAnd("<|endoftext|>", false));
  EXPECT_THAT(Load().eos_token_ids, IsEmpty());
  folder_.Write("tokenizer.json", WordsAnd("<|end|>", true));
  EXPECT_THAT(Load().eos_token_ids, IsEmpty());
}

TEST_F(LoadModelTest, TheEndOfTextOfTheConfigurationStands) {
  folder_.Write("tokenizer.json", WordsAnd("<|endoftext|>", true));
  std::string config = RandomHybridConfig({});
  config.insert(1, R"("eos_token_id":1,)");
  folder_.Write("config.json", config);
  EXPECT_THAT(Load().eos_token_ids, ElementsAre(1));
}

class BackendWithoutInt4 final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  bool HasFormat(WeightFormat format) const override {
    return format != WeightFormat::kInt4;
  }
};

TEST_F(LoadModelTest, AFormatThatTheBackEndHasNotIsRefusedBeforeAnyTensor) {
  BackendWithoutInt4 backend(backend_.get());
  const auto opened = ModelFolder::Open(folder_.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  ModelLimits limits = kLimits;
  limits.weight_format = WeightFormat::kInt4;
  const absl::Status refusal = (*opened)->Plan(backend, limits).status();
  EXPECT_EQ(refusal.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::string(refusal.message()),
            "the back end cpu has no weights in int4, only in f32, bf16, f16, "
            "int8; ask for one of these (--weights) or for another back end "
            "(--backend)");
  EXPECT_EQ((*opened)->LoadModel(&backend, limits, 0).status(), refusal);
  limits.weight_format = WeightFormat::kInt8;
  EXPECT_TRUE((*opened)->Plan(backend, limits).ok());
  EXPECT_TRUE((*opened)->LoadModel(&backend, limits, 0).ok());
}

TEST_F(LoadModelTest, AFolderThatIsOpenMayBeLoadedSeveralTimes) {
  const auto opened = ModelFolder::Open(folder_.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  ASSERT_TRUE((*opened)->Plan(*backend_, kLimits).ok());
  const auto first = (*opened)->Load(backend_.get(), kLimits);
  const auto second = (*opened)->Load(backend_.get(), kLimits);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->model->info().weight_hash,
            second->model->info().weight_hash);
}

TEST_F(LoadModelTest, TellsWhatIsWrongWithAFolderBeforeAnythingIsLoaded) {
  const TemporaryFolder empty;
  EXPECT_EQ(ModelFolder::Open(empty.path()).status().code(),
            absl::StatusCode::kNotFound);
  folder_.Write("model.safetensors", "<html>");
  const absl::Status status = ModelFolder::Open(folder_.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
}

TEST_F(LoadModelTest, TellsOfADeviceThatFailsWhicheverCallOfLoadingDoes) {
  const auto opened = ModelFolder::Open(folder_.path());
  ENGRAM_CHECK_OK(opened.status());
  for (int64_t call = 1;; ++call) {
    FaultyBackend faulty(backend_.get());
    faulty.FailFrom(call);
    const auto loaded = (*opened)->Load(&faulty, kLimits);
    if (!faulty.has_failed()) {
      EXPECT_TRUE(loaded.ok()) << loaded.status();
      EXPECT_GT(call, 10);
      break;
    }
    ASSERT_EQ(loaded.status().code(), absl::StatusCode::kInternal) << call;
  }
}

TEST_F(LoadModelTest, TellsOfADeviceThatFailsWhicheverCallOfAStepDoes) {
  const auto opened = ModelFolder::Open(folder_.path());
  ENGRAM_CHECK_OK(opened.status());
  for (int64_t call = 1;; ++call) {
    FaultyBackend faulty(backend_.get());
    const auto loaded = (*opened)->Load(&faulty, kLimits);
    ENGRAM_CHECK_OK(loaded.status());
    Model& model = *loaded->model;
    const std::vector<int32_t> ids = {1, 2, 3};
    Batch batch;
    batch.rows.push_back(
        RowWith(LogitsWanted::kLast, model.states().Take(), ids));
    faulty.FailFrom(call);
    absl::Status status = model.Begin(batch);
    if (status.ok()) status = model.Finish().status();
    if (!faulty.has_failed()) {
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_GT(call, 1);
      break;
    }
    ASSERT_EQ(status.code(), absl::StatusCode::kInternal) << call;
  }
}

}  // namespace
}  // namespace engram

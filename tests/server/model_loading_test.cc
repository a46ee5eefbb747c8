#include "server/model_loading.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/model/model_folder.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kTokenizer[] =
    R"("version":"1.0","added_tokens":[],"normalizer":null,)"
    R"("pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,)"
    R"("decoder":null,"model":{"type":"WordLevel","vocab":{"a":0,"b":1},)"
    R"("unk_token":"a"}})";

class ModelLoadingTest : public testing::Test {
 protected:
  ModelLoadingTest() {
    options_.slots = 2;
    options_.max_batch_tokens = 16;
    options_.threads = 1;
    folder_.Write("config.json", RandomMambaConfig({}));
    folder_.Write("model.safetensors",
                  SafetensorsFile(RandomMambaTensors({})));
  }

  absl::StatusOr<std::unique_ptr<ServedModel>> Load() {
    return LoadServedModel("name", folder_.path(), options_);
  }

  ServerOptions options_;
  TemporaryFolder folder_;
};

TEST_F(ModelLoadingTest, AnOrdinaryFolderGivesNoWarning) {
  const auto served = Load();
  ASSERT_TRUE(served.ok()) << served.status();
  EXPECT_THAT((*served)->warnings, IsEmpty());
  EXPECT_EQ((*served)->tokenizer, nullptr);
}

TEST_F(ModelLoadingTest, WarnsOfWhatIsOddInEachFile) {
  folder_.Write("tokenizer.json",
                absl::StrCat(R"({"truncation":{"max_length":8},)", kTokenizer));
  std::string config = RandomMambaConfig({});
  config.insert(1, R"("bos_token_id":99,)");
  folder_.Write("config.json", config);
  auto tensors = RandomMambaTensors({});
  tensors["lm_head.weight"] = RandomTensors()({40, 19}, 0, 1);
  folder_.Write("model.safetensors", SafetensorsFile(tensors));
  const auto served = Load();
  ASSERT_TRUE(served.ok()) << served.status();
  EXPECT_THAT((*served)->warnings,
              ElementsAre(HasSubstr("truncation"), HasSubstr("bos_token_id"),
                          HasSubstr("lm_head.weight")));
}

TEST_F(ModelLoadingTest, TellsHowToMakeATokenizerOfOlderFiles) {
  folder_.Write("vocab.json", "{}");
  EXPECT_THAT(Load().value()->warnings,
              ElementsAre(AllOf(HasSubstr("vocab.json"),
                                HasSubstr("save_pretrained"))));
}

TEST_F(ModelLoadingTest, NamesAWebPageInPlaceOfATokenizer) {
  folder_.Write("tokenizer.json", "<html>Not found</html>");
  const absl::Status status = Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("tokenizer.json"), HasSubstr("is a web page")));
}

TEST_F(ModelLoadingTest, NamesAFolderOfAnotherLayout) {
  const TemporaryFolder other;
  other.Write("params.json", "{}");
  other.Write("consolidated.safetensors", "x");
  const absl::Status status =
      LoadServedModel("name", other.path(), options_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("mistral-inference"));
}

}  // namespace
}  // namespace engram

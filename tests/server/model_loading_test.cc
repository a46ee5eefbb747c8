#include "server/model_loading.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/model/model_folder.h"
#include "tests/support/sanitizers.h"

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
    folder_.Write("model.safetensors", SafetensorsFile(RandomMambaTensors({})));
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
  tensors["lm_head.weight"] = RandomTensors()({40, 19}, 0, 0.7f);
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

TEST_F(ModelLoadingTest,
       SaysWhatIsNeededAndWhichFlagsChangeItWhereThereIsNoRoom) {
  MemoryPlan plan;
  plan.weights = 1000;
  plan.states = 2000;
  plan.buffers = 3000;
  plan.logits = 4000;
  const ModelLimits limits;
  EXPECT_TRUE(CheckRoom(plan, limits, {10'000, "ulimit -v"}).ok());
  const absl::Status status = CheckRoom(plan, limits, {9'999, "ulimit -v"});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("10000 bytes: 1000 of weights (--weights)"),
                    HasSubstr("2000 of states in 64 slots (--slots)"),
                    HasSubstr("3000 of buffers for steps of 512 tokens "
                              "(--max-batch-tokens)"),
                    HasSubstr("4000 of logits in 128 rows"),
                    HasSubstr("ulimit -v leaves 9999")));
  // Sums that do not fit in 64 bits are more than any room.
  plan.states = plan.buffers = SIZE_MAX - 5;
  EXPECT_FALSE(CheckRoom(plan, limits, {SIZE_MAX - 1, "the machine"}).ok());
}

// 32 MB of a file ask for 9 GB of logits: refused by arithmetic.
TEST_F(ModelLoadingTest, RefusesALargeVocabularyWithinALimitOfAddressSpace) {
  RandomMambaShape shape;
  shape.d_model = 1;
  shape.vocab = 1 << 23;
  options_.slots = 64;
  options_.max_batch_tokens = 512;
  RandomMambaShape small = shape;
  small.vocab = 1;
  auto tensors = RandomMambaTensors(small);
  tensors["backbone.embeddings.weight"] = {
      "F16", {shape.vocab, 1}, std::string(2 * shape.vocab, '\1')};
  folder_.Write("config.json", RandomMambaConfig(shape));
  folder_.Write("model.safetensors", SafetensorsFile(tensors));
  tensors.clear();
  if (kSanitized) {
    GTEST_SKIP() << "a sanitizer has more address space than this leaves";
  }
  const auto load_within_a_gibibyte = [this] {
    rlimit limit;
    limit.rlim_cur = limit.rlim_max = size_t{1} << 30;
    setrlimit(RLIMIT_AS, &limit);
    const absl::Status status = Load().status();
    std::cerr << status;
    std::exit(absl::IsResourceExhausted(status) ? 0 : 1);
  };
  EXPECT_EXIT(load_within_a_gibibyte(), testing::ExitedWithCode(0),
              "ulimit -v leaves");
}

}  // namespace
}  // namespace engram

// Mamba against transformers' MambaForCausalLM: the folders of
// tests/golden/mamba were written by tools/golden/make_mamba_golden.py.

#include "model/mamba.h"

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

using ::testing::HasSubstr;

class MambaGolden : public testing::TestWithParam<std::string> {};

TEST_P(MambaGolden, LogitsEqualThoseOfTransformers) {
  ExpectGoldenLogits(
      absl::StrCat(ENGRAM_SOURCE_DIR, "/tests/golden/mamba/", GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Folders, MambaGolden,
                         testing::Values("odd", "usual", "biased_untied",
                                         "fractional_bf16", "sharded_f16",
                                         "original"),
                         [](const auto& info) { return info.param; });

class MambaLoading : public ModelLoading {
 protected:
  MambaLoading()
      : ModelLoading(RandomMambaConfig({}), RandomMambaTensors({})) {}

  const RandomMambaShape shape_;
};

TEST_F(MambaLoading, TellsWhatTheModelIs) {
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelInfo& info = (*model)->info();
  EXPECT_EQ(info.family, "mamba");
  EXPECT_EQ(info.parameters, Elements());
  EXPECT_EQ(info.vocabulary_size, shape_.vocab);
  EXPECT_EQ(info.layers, shape_.layers);
  // Two layers of 3 x 38 and 5 x 38, and 19 of the last hidden vector.
  EXPECT_EQ(info.state_bytes, (2 * (3 * 38 + 5 * 38) + 19) * sizeof(float));
  EXPECT_EQ(info.kv_bytes_per_token, 0u);
  EXPECT_EQ(info.weight_format, "f32");
  EXPECT_EQ(info.backend, "cpu");
  EXPECT_EQ(info.weight_hash.size(), 32u);
}

TEST_F(MambaLoading, TakesTheSharedMatrixUnderAnyOfItsNames) {
  const RawTensor embedding = tensors_["backbone.embeddings.weight"];
  tensors_.erase("backbone.embeddings.weight");
  for (const char* name : {"backbone.embedding.weight", "lm_head.weight"}) {
    tensors_[name] = embedding;
    EXPECT_TRUE(Load().ok()) << name;
    tensors_.erase(name);
  }
  ExpectDataLoss("no embedding matrix", "lm_head.weight");
}

TEST_F(MambaLoading, CountsATiedHeadOnce) {
  const int64_t parameters = Load().value()->info().parameters;
  tensors_["lm_head.weight"] = tensors_["backbone.embeddings.weight"];
  EXPECT_EQ(Load().value()->info().parameters, parameters);
}

TEST_F(MambaLoading, RefusesATiedHeadThatDiffersFromTheEmbedding) {
  RawTensor head = tensors_["backbone.embeddings.weight"];
  head.bytes[2] ^= 1;
  tensors_["lm_head.weight"] = head;
  ExpectDataLoss("backbone.embeddings.weight and lm_head.weight", "differ");
}

TEST_F(MambaLoading, RefusesAnUntiedModelWithoutAHead) {
  config_.insert(1, "\"tie_word_embeddings\":false,");
  ExpectDataLoss("lm_head.weight", "missing");
}

TEST_F(MambaLoading, RefusesAMissingTensor) {
  tensors_.erase("backbone.layers.1.mixer.D");
  ExpectDataLoss("backbone.layers.1.mixer.D", "missing");
}

TEST_F(MambaLoading, RefusesATensorOfAnotherShape) {
  tensors_["backbone.layers.1.mixer.D"].shape = {2, 19};
  ExpectDataLoss("backbone.layers.1.mixer.D", "expected [38]");
}

TEST_F(MambaLoading, RefusesAnEmbeddingThatDoesNotFitTheVocabulary) {
  tensors_["backbone.embeddings.weight"] =
      FloatTensor({39, 19}, std::vector<float>(39 * 19));
  ExpectDataLoss("[39, 19]", "expected [40, 19]");
}

TEST_F(MambaLoading, RefusesMoreKnownIdsThanTheVocabularyHas) {
  EXPECT_TRUE(Load(40).ok());
  const absl::Status status = Load(41).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("40"));
}

TEST_F(MambaLoading, RefusesATensorOfABlockThatItDoesNotKnow) {
  tensors_["backbone.layers.0.mixer.dt_norm.weight"] = FloatTensor({1}, {1.0f});
  ExpectDataLoss("backbone.layers.0.mixer.dt_norm.weight", "not part of");
}

TEST_F(MambaLoading, RefusesMoreLayersThanTheConfigurationHas) {
  tensors_["backbone.layers.2.norm.weight"] =
      tensors_["backbone.layers.1.norm.weight"];
  ExpectDataLoss("backbone.layers.2.norm.weight", "not part of");
}

TEST_F(MambaLoading, IgnoresTensorsBesideTheModel) {
  tensors_["optimizer.step"] = {"I64", {1}, std::string(8, '\0')};
  EXPECT_TRUE(Load().ok());
}

TEST_F(MambaLoading, RefusesAConvolutionOfOneTap) {
  for (const char* layer : {"0", "1"}) {
    tensors_[absl::StrCat("backbone.layers.", layer, ".mixer.conv1d.weight")] =
        FloatTensor({38, 1, 1}, std::vector<float>(38));
  }
  ExpectDataLoss("conv1d.weight", "expected 2 to");
}

TEST_F(MambaLoading, RefusesAnEmptyDimension) {
  tensors_["backbone.layers.0.mixer.A_log"] = {"F32", {38, 0}, ""};
  ExpectDataLoss("backbone.layers.0.mixer.A_log", "[38, 0]");
}

TEST_F(MambaLoading, NeedsTheBiasThatTheConfigurationStates) {
  // A missing field leaves it to the tensors, whatever a class's default is.
  const std::string stated = "\"use_bias\":false";
  config_.replace(config_.find(stated), stated.size(), "\"use_bias\":null");
  EXPECT_TRUE(Load().ok());
  for (const char* layer : {"0", "1"}) {
    const std::string mixer =
        absl::StrCat("backbone.layers.", layer, ".mixer.");
    tensors_[mixer + "in_proj.bias"] =
        FloatTensor({76}, std::vector<float>(76));
    tensors_[mixer + "out_proj.bias"] =
        FloatTensor({19}, std::vector<float>(19));
  }
  EXPECT_TRUE(Load().ok());
  config_ = RandomMambaConfig(shape_);
  ExpectDataLoss("in_proj.bias", "not part of");

  tensors_ = RandomMambaTensors(shape_);
  config_.replace(config_.find(stated), stated.size(), "\"use_bias\":true");
  ExpectDataLoss("in_proj.bias", "missing");
}

}  // namespace
}  // namespace engram

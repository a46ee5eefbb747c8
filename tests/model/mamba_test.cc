// Mamba against transformers' MambaForCausalLM: the folders of
// tests/golden/mamba were written by tools/golden/make_mamba_golden.py.

#include "model/mamba.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
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
#include "tests/model/step.h"
#include "tests/support/folders.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

class MambaGolden : public testing::TestWithParam<std::string> {};

TEST_P(MambaGolden, LogitsEqualThoseOfTransformers) {
  ExpectGoldenLogits(
      SourceFile(absl::StrCat("tests/golden/mamba/", GetParam())));
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
  EXPECT_EQ(info.state_bytes, StateBytes({2 * 3 * 38, 2 * 5 * 38, 19}));
  EXPECT_EQ(info.kv_bytes_per_token, 0u);
  EXPECT_EQ(info.weight_format, "f32");
  EXPECT_EQ(info.backend, backend_->name());
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

// What a model says after these tokens.
std::vector<float> LogitsOf(Model* model, std::vector<int32_t> tokens) {
  const int slot = model->states().Take();
  Batch batch;
  batch.rows.push_back(RowWith(LogitsWanted::kLast, slot, tokens));
  const auto result = RunStep(model, batch);
  EXPECT_TRUE(result.ok() && result->finite[0]);
  return result->logits;
}

TEST_F(MambaLoading, ServesTwoHeadsThatDifferAlthoughTheyAreSaidToBeOne) {
  const auto tied = Load().value();
  const RawTensor head = RandomTensors()({40, 19}, 0, 0.7f);
  tensors_["lm_head.weight"] = head;
  const auto both = Load().value();
  EXPECT_THAT(both->info().warnings,
              testing::ElementsAre(HasSubstr("lm_head.weight")));
  config_.insert(1, "\"tie_word_embeddings\":false,");
  const auto untied = Load().value();
  EXPECT_THAT(untied->info().warnings, testing::IsEmpty());
  EXPECT_EQ(LogitsOf(both.get(), {3, 1, 4}), LogitsOf(untied.get(), {3, 1, 4}));
  EXPECT_NE(LogitsOf(both.get(), {3, 1, 4}), LogitsOf(tied.get(), {3, 1, 4}));
  EXPECT_EQ(both->info().parameters, Elements());
}

TEST_F(MambaLoading, TakesAHeadOfTheSameValuesInAnotherTypeForTheEmbedding) {
  RawTensor& embedding = tensors_["backbone.embeddings.weight"];
  std::string upper_halves;
  for (size_t i = 0; i < embedding.bytes.size(); i += 4) {
    embedding.bytes[i] = embedding.bytes[i + 1] = 0;
    upper_halves += embedding.bytes.substr(i + 2, 2);
  }
  tensors_["lm_head.weight"] = {"BF16", embedding.shape, upper_halves};
  const auto model = Load().value();
  EXPECT_THAT(model->info().warnings, testing::IsEmpty());
}

TEST_F(MambaLoading, RefusesTwoEmbeddingsThatDiffer) {
  RawTensor other = tensors_["backbone.embeddings.weight"];
  other.bytes[2] ^= 1;
  tensors_["backbone.embedding.weight"] = other;
  ExpectDataLoss("backbone.embeddings.weight and backbone.embedding.weight",
                 "differ");
}

TEST_F(MambaLoading, RefusesATensorThatIsNotFinite) {
  ExpectRefusedWhereATensorIsNotFinite();
}

TEST_F(MambaLoading, ReadsTheNamesThatWrappersAndHeadlessModelsWrite) {
  const auto usual = Load().value();
  const std::vector<float> expected = LogitsOf(usual.get(), {3, 1, 4});
  const auto tensors = tensors_;
  for (const std::string prefix :
       {"module.backbone.", "_orig_mod.backbone.", "model.backbone.",
        "_orig_mod.module.model.backbone.", "", "module.", "model."}) {
    tensors_.clear();
    for (const auto& [name, tensor] : tensors) {
      tensors_[prefix + name.substr(std::string("backbone.").size())] = tensor;
    }
    const auto model = Load();
    ASSERT_TRUE(model.ok()) << prefix << ": " << model.status();
    EXPECT_EQ(LogitsOf(model->get(), {3, 1, 4}), expected) << prefix;
    EXPECT_THAT((*model)->info().warnings,
                testing::ElementsAre(HasSubstr(prefix + "layers")));
  }
}

TEST_F(MambaLoading, ReadsAHeadBehindTheSameWrapper) {
  tensors_["lm_head.weight"] = RandomTensors()({40, 19}, 0, 0.7f);
  config_.insert(1, "\"tie_word_embeddings\":false,");
  std::map<std::string, RawTensor> wrapped;
  for (const auto& [name, tensor] : tensors_)
    wrapped["module." + name] = tensor;
  tensors_ = wrapped;
  EXPECT_TRUE(Load().ok());
  wrapped["lm_head.weight"] = wrapped["module.lm_head.weight"];
  tensors_ = wrapped;
  ExpectDataLoss("module.lm_head.weight", "are both");
}

// Finite weights whose products are too large for a float.
TEST_F(MambaLoading, LogitsThatAreNotFiniteMarkTheirRow) {
  RawTensor& head = tensors_["lm_head.weight"] =
      tensors_["backbone.embeddings.weight"];
  std::vector<float> row(19, 3e38f);
  std::memcpy(&head.bytes[7 * 19 * sizeof(float)], row.data(),
              row.size() * sizeof(float));
  config_.insert(1, "\"tie_word_embeddings\":false,");
  const auto model = Load().value();
  const std::vector<int32_t> tokens = {3, 1, 4};
  for (const LogitsWanted wanted : {LogitsWanted::kLast, LogitsWanted::kAll}) {
    Batch batch;
    const int quiet = model->states().Take();
    const int asked = model->states().Take();
    batch.rows.push_back(RowWith(LogitsWanted::kNone, quiet, tokens));
    batch.rows.push_back(RowWith(wanted, asked, tokens));
    EXPECT_THAT(RunStep(model.get(), batch).value().finite,
                testing::ElementsAre(true, false));
    model->states().Free(quiet);
    model->states().Free(asked);
  }
  // An id that the tokenizer has not can neither be drawn nor do harm.
  const auto masked = Load(/*known_ids=*/7).value();
  LogitsOf(masked.get(), tokens);
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
  Replace(stated, "\"use_bias\":null");
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
  Replace(stated, "\"use_bias\":true");
  ExpectDataLoss("in_proj.bias", "missing");
}

}  // namespace
}  // namespace engram

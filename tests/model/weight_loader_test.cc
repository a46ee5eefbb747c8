#include "model/weight_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/model/golden_model.h"
#include "tests/model/model_folder.h"
#include "tests/model/model_loading.h"
#include "tests/model/step.h"

namespace engram {
namespace {

// A small Mamba: every matrix of a model comes through the loader.
class WeightLoaderTest : public ModelLoading {
 protected:
  WeightLoaderTest()
      : ModelLoading(RandomMambaConfig(RandomMambaShape()),
                     RandomMambaTensors(RandomMambaShape())) {}

  void StoreAs(const std::string& dtype) {
    for (auto& [name, tensor] : tensors_) tensor = Narrowed(tensor, dtype);
  }

  ModelInfo InfoWith(std::optional<WeightFormat> format) {
    limits_.weight_format = format;
    return Load().value()->info();
  }

  // The logits behind each of a few tokens.
  std::vector<float> LogitsWith(std::optional<WeightFormat> format) {
    limits_.weight_format = format;
    const std::unique_ptr<Model> model = Load().value();
    const std::vector<int32_t> tokens = {3, 1, 4, 1, 5, 9, 2};
    Batch batch;
    batch.rows.push_back(
        RowWith(LogitsWanted::kAll, model->states().Take(), tokens));
    return RunStep(model.get(), batch).value().logits;
  }
};

TEST_F(WeightLoaderTest, KeepsMatricesAsTheyAreStored) {
  EXPECT_EQ(InfoWith(std::nullopt).weight_format, "f32");
  StoreAs("BF16");
  EXPECT_EQ(InfoWith(std::nullopt).weight_format, "bf16");
}

TEST_F(WeightLoaderTest, TellsEveryFormatOfAFileThatMixesThem) {
  const std::string name = Mixer("in_proj.weight");
  tensors_[name] = Narrowed(tensors_[name], "F16");
  EXPECT_EQ(InfoWith(std::nullopt).weight_format, "f16 and f32");
}

TEST_F(WeightLoaderTest, AStoredFormatGivesTheBitsOfItsValuesInFloat32) {
  for (const char* dtype : {"F16", "BF16"}) {
    const auto floats = tensors_;
    StoreAs(dtype);
    EXPECT_EQ(LogitsWith(std::nullopt), LogitsWith(WeightFormat::kFloat32))
        << dtype;
    tensors_ = floats;
  }
}

TEST_F(WeightLoaderTest, RoundsToTheFormatThatIsAskedFor) {
  const std::vector<float> exact = LogitsWith(std::nullopt);
  const std::vector<float> rounded = LogitsWith(WeightFormat::kFloat16);
  EXPECT_NE(rounded, exact);
  for (size_t i = 0; i < exact.size(); ++i) {
    EXPECT_NEAR(rounded[i], exact[i], 0.1);
  }
}

TEST_F(WeightLoaderTest, Int8IsOfAllMatricesButSmallOnes) {
  EXPECT_EQ(InfoWith(WeightFormat::kInt8).weight_format, "f32 and int8");
  EXPECT_NE(LogitsWith(WeightFormat::kInt8), LogitsWith(std::nullopt));
  const std::string name = Mixer("dt_proj.weight");
  tensors_[name] = Narrowed(tensors_[name], "F16");
  EXPECT_EQ(InfoWith(WeightFormat::kInt8).weight_format,
            "f16 and f32 and int8");
}

TEST_F(WeightLoaderTest, Int4IsOfAllMatricesButSmallOnesAndTheVocabulary) {
  EXPECT_EQ(InfoWith(WeightFormat::kInt4).weight_format,
            "f32 and int4 and int8");
  EXPECT_NE(LogitsWith(WeightFormat::kInt4), LogitsWith(WeightFormat::kInt8));
  EXPECT_NE(InfoWith(WeightFormat::kInt4).weight_hash,
            InfoWith(WeightFormat::kInt8).weight_hash);
}

TEST_F(WeightLoaderTest, OnlyRoundingMakesAnotherModel) {
  const std::string stored = InfoWith(std::nullopt).weight_hash;
  const std::string rounded = InfoWith(WeightFormat::kBFloat16).weight_hash;
  EXPECT_NE(rounded, stored);
  EXPECT_NE(rounded, InfoWith(WeightFormat::kFloat16).weight_hash);
  EXPECT_NE(InfoWith(WeightFormat::kInt8).weight_hash, stored);
  EXPECT_EQ(rounded.size(), stored.size());
  StoreAs("BF16");
  EXPECT_EQ(InfoWith(std::nullopt).weight_hash,
            InfoWith(WeightFormat::kFloat32).weight_hash);
}

TEST_F(WeightLoaderTest, NamesTheTensorThatAFormatHasNoNumberFor) {
  RawTensor& tensor = tensors_[Mixer("out_proj.weight")];
  const float large = 1e6f;
  std::memcpy(tensor.bytes.data(), &large, sizeof(large));
  limits_.weight_format = WeightFormat::kFloat16;
  ExpectRefused(absl::StatusCode::kInvalidArgument,
                "backbone.layers.1.mixer.out_proj.weight",
                "1e+06 is too large for f16");
}

}  // namespace
}  // namespace engram

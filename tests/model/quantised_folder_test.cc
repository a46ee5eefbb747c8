#include "model/quantised_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/load_model.h"
#include "model/safetensors_file.h"
#include "tests/model/golden_model.h"
#include "tests/model/model_folder.h"
#include "tests/model/step.h"
#include "tests/support/folders.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr WeightFormat kFormats[] = {WeightFormat::kInt8, WeightFormat::kInt4};

std::string Content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The tensors of a file, to be written again.
std::map<std::string, RawTensor> TensorsOf(const std::string& path) {
  std::map<std::string, RawTensor> tensors;
  const auto file = SafetensorsFile::Open(path);
  ENGRAM_CHECK_OK(file.status());
  for (const auto& [name, tensor] : (*file)->tensors()) {
    tensors[name] = {tensor.type, tensor.shape,
                     std::string(tensor.data, tensor.end - tensor.begin)};
  }
  return tensors;
}

// A back end's weights, in the order in which they were packed: whatever can be
// seen of them.
class QuantisedFolderTest : public testing::Test {
 protected:
  std::string Quantised(const std::string& source, WeightFormat format) {
    const std::string target = folder_.File(WeightFormatName(format));
    std::filesystem::remove_all(target);
    const absl::Status status = WriteQuantisedFolder(source, format, target);
    EXPECT_TRUE(status.ok()) << status;
    return target;
  }

  absl::StatusOr<std::unique_ptr<Model>> Load(
      const std::string& folder, std::optional<WeightFormat> format) {
    ModelLimits limits = {.slots = 2, .max_batch_tokens = 16};
    limits.kv_bytes = 1 << 20;
    limits.weight_format = format;
    return LoadModel(folder, backend_.get(), limits, 0);
  }

  // Behind each of a few tokens.
  std::vector<float> Logits(const std::string& folder,
                            std::optional<WeightFormat> format) {
    const auto model = Load(folder, format);
    ENGRAM_CHECK_OK(model.status());
    const std::vector<int32_t> tokens = {3, 1, 4, 1, 5, 9, 2};
    Batch batch;
    batch.rows.push_back(RowWith(
        LogitsWanted::kAll, (*model)->states().TryTake(tokens.size()), tokens));
    ENGRAM_CHECK_OK((*model)->states().Clear(batch.rows[0].slot));
    return RunStep(model->get(), batch).value().logits;
  }

  void ExpectTheSameModel(const std::string& source) {
    for (const WeightFormat format : kFormats) {
      SCOPED_TRACE(WeightFormatName(format));
      const std::string target = Quantised(source, format);
      EXPECT_EQ(Logits(target, std::nullopt), Logits(source, format));
      EXPECT_EQ(Logits(target, format), Logits(source, format));
      const ModelInfo made = Load(target, std::nullopt).value()->info();
      const ModelInfo like = Load(source, format).value()->info();
      EXPECT_EQ(made.weight_format, like.weight_format);
      EXPECT_EQ(made.parameters, like.parameters);
      EXPECT_EQ(made.warnings, like.warnings);
    }
  }

  // Loads the folder after a change to its tensors.
  absl::Status Changed(
      const std::string& folder,
      const std::function<void(std::map<std::string, RawTensor>*)>& change) {
    const std::string weights = folder + "/model.safetensors";
    const std::string sound = Content(weights);
    auto tensors = TensorsOf(weights);
    change(&tensors);
    std::filesystem::remove(weights);
    std::ofstream(weights, std::ios::binary) << SafetensorsFile(tensors);
    const absl::Status status = Load(folder, std::nullopt).status();
    std::filesystem::remove(weights);
    std::ofstream(weights, std::ios::binary) << sound;
    return status;
  }

  // A Mamba of floats.
  std::string Floats() {
    WriteRandomMamba(source_, RandomMambaShape());
    return source_.path();
  }

  TemporaryFolder source_;
  TemporaryFolder folder_;
  std::unique_ptr<Backend> backend_ = TwoThreadBackend();
};

constexpr char kMatrix[] = "backbone.layers.1.mixer.in_proj.weight";

TEST_F(QuantisedFolderTest, IsTheModelThatItsFormatMakesOfTheFloats) {
  ExpectTheSameModel(Floats());
  WriteRandomMamba2(source_, RandomMamba2Shape());
  ExpectTheSameModel(source_.path());
  WriteRandomHybrid(source_, RandomHybridShape());
  ExpectTheSameModel(source_.path());
  RandomH3Shape h3;
  h3.attention_layers = {1};
  WriteRandomH3(source_, h3);
  ExpectTheSameModel(source_.path());
}

TEST_F(QuantisedFolderTest, OfATrainedModelGivesItsBitsAndItsTokenizer) {
  const std::string source = SourceFile("model/zoo/mamba-english");
  const std::string target = Quantised(source, WeightFormat::kInt4);
  EXPECT_EQ(Logits(target, std::nullopt), Logits(source, WeightFormat::kInt4));
  for (const char* name : {"tokenizer.json", "generation_config.json"}) {
    EXPECT_EQ(Content(absl::StrCat(target, "/", name)),
              Content(absl::StrCat(source, "/", name)));
  }
  EXPECT_LT(std::filesystem::file_size(target + "/model.safetensors") * 4,
            std::filesystem::file_size(source + "/model.safetensors"));
}

TEST_F(QuantisedFolderTest, HoldsValuesAndScalesByRule) {
  const RandomMambaShape shape;
  const std::string source = Floats();
  auto tensors =
      TensorsOf(Quantised(source, WeightFormat::kInt8) + "/model.safetensors");
  const std::vector<int64_t> matrix = {2 * shape.d_inner, shape.d_model};
  EXPECT_EQ(tensors.at(kMatrix).dtype, "I8");
  EXPECT_EQ(tensors.at(kMatrix).shape, matrix);
  EXPECT_EQ(tensors.at(absl::StrCat(kMatrix, ".scales")).dtype, "F32");
  EXPECT_EQ(tensors.at("backbone.layers.0.mixer.dt_proj.weight").dtype, "F32");
  EXPECT_EQ(tensors.count(absl::StrCat(kMatrix, ".minimums")), 0u);
  tensors =
      TensorsOf(Quantised(source, WeightFormat::kInt4) + "/model.safetensors");
  EXPECT_EQ(tensors.at(kMatrix).dtype, "U8");
  EXPECT_EQ(tensors.at(kMatrix).shape,
            (std::vector<int64_t>{matrix[0], (matrix[1] + 1) / 2}));
  EXPECT_EQ(tensors.at(absl::StrCat(kMatrix, ".minimums")).dtype, "F16");
  EXPECT_EQ(tensors.at("backbone.embeddings.weight").dtype, "I8");
}

TEST_F(QuantisedFolderTest, OfAMatrixUnderTwoNamesOneIsLeft) {
  auto tensors = RandomMambaTensors(RandomMambaShape());
  tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"];
  source_.Write("config.json", RandomMambaConfig(RandomMambaShape()));
  source_.Write("model.safetensors", SafetensorsFile(tensors));
  ExpectTheSameModel(source_.path());
  EXPECT_EQ(
      TensorsOf(folder_.File("int8/model.safetensors")).count("lm_head.weight"),
      0u);
}

TEST_F(QuantisedFolderTest, AHeadOfItsOwnStaysOne) {
  auto tensors = RandomMambaTensors(RandomMambaShape());
  tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"];
  tensors["lm_head.weight"].bytes[2] ^= 64;
  source_.Write("config.json", RandomMambaConfig(RandomMambaShape()));
  source_.Write("model.safetensors", SafetensorsFile(tensors));
  ExpectTheSameModel(source_.path());
}

TEST_F(QuantisedFolderTest, InFormatsOtherThanItsOwnIsRefused) {
  const std::string target = Quantised(Floats(), WeightFormat::kInt8);
  const absl::Status status = Load(target, WeightFormat::kInt4).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("quantised to int8 already"),
                    HasSubstr("int4 is asked for")));
  EXPECT_FALSE(Load(target, WeightFormat::kFloat32).ok());
}

TEST_F(QuantisedFolderTest, IsMadeOfFloatsAndOnceOnly) {
  const std::string source = Floats();
  const std::string target = Quantised(source, WeightFormat::kInt8);
  EXPECT_EQ(
      WriteQuantisedFolder(target, WeightFormat::kInt4, folder_.File("again"))
          .code(),
      absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(WriteQuantisedFolder(source, WeightFormat::kInt8, target).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(WriteQuantisedFolder(source, WeightFormat::kBFloat16,
                                 folder_.File("again"))
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(std::filesystem::exists(folder_.File("again")));
}

TEST_F(QuantisedFolderTest, NothingIsLeftOfOneThatCouldNotBeMade) {
  auto tensors = RandomMambaTensors(RandomMambaShape());
  const float large = 1e6f;
  std::memcpy(tensors[kMatrix].bytes.data(), &large, sizeof(large));
  source_.Write("config.json", RandomMambaConfig(RandomMambaShape()));
  source_.Write("model.safetensors", SafetensorsFile(tensors));
  const absl::Status status = WriteQuantisedFolder(
      source_.path(), WeightFormat::kInt4, folder_.File("target/"));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(kMatrix), HasSubstr("too large for int4")));
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

// --- What is hostile.

bool IsOfAMatrix(const std::string& name, const RawTensor& tensor) {
  return tensor.dtype == "I8" || tensor.dtype == "U8" ||
         name.ends_with(".scales") || name.ends_with(".minimums");
}

TEST_F(QuantisedFolderTest, NamesATensorThatIsMissingOrNotPartOfIt) {
  for (const WeightFormat format : kFormats) {
    const std::string target = Quantised(Floats(), format);
    for (const auto& [name, tensor] :
         TensorsOf(target + "/model.safetensors")) {
      const std::string& missing = name;
      // Of a bias that is not there there is none.
      if (missing.ends_with("conv1d.bias")) continue;
      const absl::Status status = Changed(
          target, [&missing](auto* tensors) { tensors->erase(missing); });
      EXPECT_TRUE(absl::IsDataLoss(status)) << missing;
      EXPECT_THAT(std::string(status.message()), HasSubstr(missing));
    }
    const std::string surplus = "backbone.layers.0.norm.weight.scales";
    const absl::Status status = Changed(target, [&surplus](auto* tensors) {
      (*tensors)[surplus] = FloatTensor({1}, {1});
    });
    EXPECT_TRUE(absl::IsDataLoss(status));
    EXPECT_THAT(std::string(status.message()), HasSubstr(surplus));
  }
}

TEST_F(QuantisedFolderTest, NamesATensorOfAnotherTypeOrShape) {
  for (const WeightFormat format : kFormats) {
    const std::string target = Quantised(Floats(), format);
    for (const auto& [name, tensor] :
         TensorsOf(target + "/model.safetensors")) {
      const std::string& wrong = name;
      for (const bool is_type : {true, false}) {
        const absl::Status status = Changed(target, [&](auto* tensors) {
          RawTensor& changed = (*tensors)[wrong];
          if (is_type) {
            changed.dtype = changed.dtype == "U8" ? "I8" : "U8";
            changed.shape.back() *=
                changed.bytes.size() /
                std::accumulate(changed.shape.begin(), changed.shape.end(),
                                size_t{1}, std::multiplies<>());
          } else {
            changed.bytes += changed.bytes.substr(
                0, changed.bytes.size() / changed.shape[0]);
            ++changed.shape[0];
          }
        });
        EXPECT_TRUE(absl::IsDataLoss(status)) << wrong << " " << status;
        EXPECT_THAT(std::string(status.message()), HasSubstr("expected"))
            << wrong;
        // From some of the others sizes are taken, and then a third is wrong.
        if (!IsOfAMatrix(wrong, tensor)) continue;
        EXPECT_THAT(std::string(status.message()), HasSubstr(wrong));
      }
    }
  }
}

TEST_F(QuantisedFolderTest, NamesTheScaleThatNoFitGives) {
  const float floats[] = {std::numeric_limits<float>::quiet_NaN(), -1,
                          std::numeric_limits<float>::infinity(), 3e38f};
  const std::string int8 = Quantised(Floats(), WeightFormat::kInt8);
  const std::string scales = absl::StrCat(kMatrix, ".scales");
  for (const float scale : floats) {
    const absl::Status status = Changed(int8, [&](auto* tensors) {
      std::memcpy((*tensors)[scales].bytes.data() + sizeof(scale), &scale,
                  sizeof(scale));
    });
    EXPECT_TRUE(absl::IsDataLoss(status)) << scale << " " << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(kMatrix), HasSubstr("a scale is "),
                      HasSubstr("at [1, 0]")));
  }
  const std::string int4 = Quantised(Floats(), WeightFormat::kInt4);
  for (const char* const part : {"scale", "minimum"}) {
    for (const uint16_t half : {0x7c00, 0x7e00}) {
      const absl::Status status = Changed(int4, [&](auto* tensors) {
        std::memcpy(
            (*tensors)[absl::StrCat(kMatrix, ".", part, "s")].bytes.data(),
            &half, sizeof(half));
      });
      EXPECT_TRUE(absl::IsDataLoss(status)) << status;
      EXPECT_THAT(
          std::string(status.message()),
          AllOf(HasSubstr(kMatrix), HasSubstr(absl::StrCat("a ", part))));
    }
  }
}

TEST_F(QuantisedFolderTest, NamesTheIntegerThatInt8DoesNotHave) {
  const std::string target = Quantised(Floats(), WeightFormat::kInt8);
  const absl::Status status = Changed(target, [](auto* tensors) {
    (*tensors)[kMatrix].bytes[1] = static_cast<char>(-128);
  });
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr(kMatrix), HasSubstr("a value is -128 at [0, 1]")));
}

TEST_F(QuantisedFolderTest, AFormatThatIsNoneIsRefused) {
  const std::string target = Quantised(Floats(), WeightFormat::kInt8);
  const std::string config = Content(target + "/config.json");
  for (const char* format : {"\"int5\"", "\"bf16\"", "8", "null"}) {
    std::string changed = config;
    changed.replace(changed.find("\"int8\""), 6, format);
    std::ofstream(target + "/config.json") << changed;
    const absl::Status status = Load(target, std::nullopt).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << format << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("format"));
  }
}

// Changes bytes as damage or malice would, in the header more often than not.
TEST_F(QuantisedFolderTest, MutationsGiveAStatusAndNeverACrash) {
  RandomMambaShape shape;
  shape.layers = 1;
  shape.d_model = 3;
  shape.d_inner = 5;
  shape.d_state = 2;
  shape.dt_rank = 1;
  shape.vocab = 6;
  WriteRandomMamba(source_, shape);
  std::mt19937 random(1);
  int loaded = 0;
  for (const WeightFormat format : kFormats) {
    const std::string target = Quantised(source_.path(), format);
    const std::string sound = Content(target + "/model.safetensors");
    for (int i = 0; i < 10'000; ++i) {
      std::string changed = sound;
      for (int left = random() % 3; left >= 0; --left) {
        changed[random() % changed.size()] = static_cast<char>(random());
      }
      std::filesystem::remove(target + "/model.safetensors");
      std::ofstream(target + "/model.safetensors", std::ios::binary) << changed;
      if (Load(target, std::nullopt).ok()) ++loaded;
    }
  }
  EXPECT_GT(loaded, 100);
  EXPECT_LT(loaded, 10'000);
}

}  // namespace
}  // namespace engram

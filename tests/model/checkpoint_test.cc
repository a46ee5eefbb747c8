#include "model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "model/load_model.h"
#include "model/model.h"
#include "tests/model/model_folder.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CheckpointTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Checkpoint>> Open() {
    return Checkpoint::Open(folder_.path());
  }

  // Opens a folder with this one file.
  absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& file) {
    folder_.Write("model.safetensors", file);
    return Open();
  }

  // The file must be refused with a message that has all of `parts`.
  void ExpectDamaged(const std::string& file,
                     const std::vector<std::string>& parts) {
    folder_.Write("model.safetensors", file);
    ExpectDamaged(parts);
  }

  void ExpectDamaged(const std::vector<std::string>& parts) {
    const absl::Status status = Open().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    for (const std::string& part : parts) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(part));
    }
  }

  // A file whose header describes one tensor by `entry`, with 8 bytes of data.
  static std::string OneTensor(const std::string& entry) {
    return SafetensorsFile(absl::StrCat("{\"t\":", entry, "}"), "01234567");
  }

  void WriteIndex(const std::string& weight_map) {
    folder_.Write(
        "model.safetensors.index.json",
        absl::StrCat("{\"metadata\":{},\"weight_map\":{", weight_map, "}}"));
  }

  const RawTensor two_floats_ = FloatTensor({2}, {1.5f, -2});
  const RawTensor three_floats_ = FloatTensor({3, 1}, {3, 4, 5});
  TemporaryFolder folder_;
};

TEST_F(CheckpointTest, ReadsTensorsOfEveryDtypeThatItHandsOut) {
  const auto checkpoint =
      Open(SafetensorsFile({{"float", two_floats_},
                            {"brain", {"BF16", {1}, {'\xc0', '\x3f'}}},
                            {"half", {"F16", {1, 1}, {'\x00', '\x3e'}}}}));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT((*checkpoint)->Names(), ElementsAre("brain", "float", "half"));
  EXPECT_TRUE((*checkpoint)->Has("half"));
  EXPECT_FALSE((*checkpoint)->Has("double"));
  for (const char* name : {"brain", "half"}) {
    EXPECT_THAT(WidenToFloat32((*checkpoint)->Get(name).value()),
                ElementsAre(1.5f));
  }
  const Tensor tensor = (*checkpoint)->Get("float", {2}).value();
  EXPECT_EQ(tensor.type, DataType::kFloat32);
  EXPECT_THAT(WidenToFloat32(tensor), ElementsAre(1.5f, -2));
}

TEST_F(CheckpointTest, ReadsDataThatIsNotAligned) {
  for (int spaces = 0; spaces < 8; ++spaces) {
    const auto checkpoint = Open(SafetensorsFile(
        absl::StrCat(
            R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
            std::string(spaces, ' ')),
        two_floats_.bytes));
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_THAT(WidenToFloat32((*checkpoint)->Get("t").value()),
                ElementsAre(1.5f, -2));
  }
}

TEST_F(CheckpointTest, ReadsScalarsAndEmptyTensors) {
  const auto checkpoint = Open(SafetensorsFile(
      {{"empty", {"F32", {0, 3}, ""}}, {"scalar", FloatTensor({}, {7})}}));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(WidenToFloat32((*checkpoint)->Get("scalar").value()),
              ElementsAre(7));
  EXPECT_EQ((*checkpoint)->Get("empty").value().elements(), 0);
}

TEST_F(CheckpointTest, TellsTheFileTheTensorAndBothShapes) {
  const auto checkpoint = Open(SafetensorsFile({{"t", three_floats_}}));
  const absl::Status status = (*checkpoint)->Get("t", {1, 3}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  for (const char* part : {"/model.safetensors", "\"t\"", "[3, 1]", "[1, 3]"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

TEST_F(CheckpointTest, TellsThatATensorIsMissing) {
  const auto checkpoint = Open(SafetensorsFile({{"t", two_floats_}}));
  EXPECT_EQ((*checkpoint)->Get("u").status().code(),
            absl::StatusCode::kDataLoss);
}

TEST_F(CheckpointTest, DoesNotHandOutIntegers) {
  const auto checkpoint =
      Open(SafetensorsFile({{"t", {"I64", {1}, "01234567"}}}));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const absl::Status status = (*checkpoint)->Get("t").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("I64"));
}

TEST_F(CheckpointTest, HashDependsOnEveryPartOfATensorAndNotOnTheFile) {
  const auto hash = [this](const std::map<std::string, RawTensor>& tensors) {
    return Open(SafetensorsFile(tensors)).value()->Hash();
  };
  const std::string original = hash({{"a", two_floats_}, {"b", three_floats_}});
  EXPECT_EQ(original.size(), 32u);
  EXPECT_EQ(original.find_first_not_of("0123456789abcdef"), std::string::npos);
  RawTensor changed = two_floats_;
  changed.bytes[7] ^= 1;
  EXPECT_NE(hash({{"a", changed}, {"b", three_floats_}}), original);
  EXPECT_NE(hash({{"a", two_floats_}, {"c", three_floats_}}), original);
  changed = two_floats_;
  changed.shape = {2, 1};
  EXPECT_NE(hash({{"a", changed}, {"b", three_floats_}}), original);
  changed = two_floats_;
  changed.dtype = "I32";
  EXPECT_NE(hash({{"a", changed}, {"b", three_floats_}}), original);
  EXPECT_EQ(hash({{"a", two_floats_}, {"b", three_floats_}}), original);

  std::filesystem::remove(folder_.path() + "/model.safetensors");
  folder_.Write("1.safetensors", SafetensorsFile({{"b", three_floats_}}));
  folder_.Write("2.safetensors", SafetensorsFile({{"a", two_floats_}}));
  WriteIndex(R"("a":"2.safetensors","b":"1.safetensors")");
  EXPECT_EQ(Open().value()->Hash(), original);
}

// --- What is not there.

TEST_F(CheckpointTest, NoFolder) {
  const auto checkpoint = Checkpoint::Open(folder_.path() + "/none");
  EXPECT_EQ(checkpoint.status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CheckpointTest, NoSafetensors) {
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CheckpointTest, PickledWeightsOnlyAsksForAConversion) {
  folder_.Write("pytorch_model.bin", "PK");
  const absl::Status status = Open().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("tools/convert/convert.py"));
}

TEST_F(CheckpointTest, NamesWhatAFolderHoldsInsteadOfWeights) {
  for (const auto& [name, clause] :
       std::vector<std::pair<std::string, std::string>>{
           {"pytorch_model-00001-of-00002.bin", "tools/convert/convert.py"},
           {"model.pt", "tools/convert/convert.py"},
           {"consolidated.00.pth", "mistral-inference"},
           {"params.json", "mistral-inference"},
           {"adapter_config.json", "merge_and_unload"},
           {"mamba.Q4_K_M.gguf", "llama.cpp"},
           {"tf_model.h5", "another framework"},
           {"mamba-130m.safetensors", "rename it"},
           {"snapshots", "snapshots/"},
           {"training_args.bin", "neither model.safetensors"}}) {
    const TemporaryFolder folder;
    folder.Write(name, "x");
    const absl::Status status = Checkpoint::Open(folder.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(clause)) << name;
  }
}

TEST_F(CheckpointTest, NamesALinkToAFileThatIsNotThere) {
  std::filesystem::create_symlink("../../blobs/0123",
                                  folder_.path() + "/model.safetensors");
  EXPECT_THAT(std::string(Open().status().message()),
              HasSubstr("a link to a file that is not there"));
}

TEST_F(CheckpointTest, NamesAFileThatIsGivenForAFolder) {
  folder_.Write("model.safetensors", "x");
  const auto checkpoint =
      Checkpoint::Open(folder_.path() + "/model.safetensors");
  EXPECT_THAT(std::string(checkpoint.status().message()),
              HasSubstr("is a file, expected the folder"));
}

TEST_F(CheckpointTest, NamesWhatAFileHoldsInsteadOfWeights) {
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
  ExpectDamaged(pointer, {"is a pointer of git-lfs", "git lfs pull"});
  ExpectDamaged("\n<!DOCTYPE html><html><body>Sign in</body></html>",
                {"is a web page"});
  ExpectDamaged("PK\x03\x04 archive/data.pkl", {"tools/convert/convert.py"});
  ExpectDamaged(
      "\x80\x02}q\x01(X\x05"
      "tensors",
      {"pickle"});
  ExpectDamaged("GGUF\x03 and so on", {"llama.cpp"});
  ExpectDamaged("{\"error\":\"Entry not found\"}", {"download it again"});
}

// --- Damaged files.

TEST_F(CheckpointTest, RefusesAnEmptyFile) { ExpectDamaged("", {"empty"}); }

TEST_F(CheckpointTest, RefusesAFileTooShortForItsHeaderLength) {
  ExpectDamaged("1234567", {"7 bytes"});
}

TEST_F(CheckpointTest, RefusesAHeaderLongerThanTheFile) {
  std::string file = SafetensorsFile({{"t", two_floats_}});
  ExpectDamaged(file.substr(0, 20), {"truncated"});
}

TEST_F(CheckpointTest, RefusesAHeaderOverTheLimit) {
  ExpectDamaged(std::string(7, '\xff') + "\x7f{}", {"limit 2"});
  // A sparse file: long enough for its header, which is over the limit.
  std::string start(8, '\0');
  const uint64_t header_bytes = 100'000'001;
  std::memcpy(start.data(), &header_bytes, sizeof(header_bytes));
  folder_.Write("model.safetensors", start);
  std::filesystem::resize_file(folder_.path() + "/model.safetensors",
                               200'000'000);
  ExpectDamaged({"header of 100000001 bytes, limit 100000000"});
}

TEST_F(CheckpointTest, RefusesAHeaderThatIsNotJson) {
  ExpectDamaged(SafetensorsFile("{\"t\":", ""), {"not JSON at byte"});
  ExpectDamaged(SafetensorsFile("", ""), {"not JSON"});
  ExpectDamaged(SafetensorsFile("{\"\xff\":1}", ""), {"not JSON"});
}

TEST_F(CheckpointTest, RefusesAHeaderThatIsNoObject) {
  ExpectDamaged(SafetensorsFile("[]", ""), {"not a JSON object"});
}

TEST_F(CheckpointTest, RefusesDeepNesting) {
  const std::string deep(100'000, '[');
  ExpectDamaged(SafetensorsFile("{\"t\":" + deep, ""), {"deeper than"});
}

TEST_F(CheckpointTest, RefusesTooManyValues) {
  std::string many = "{\"__metadata__\":[";
  for (int i = 0; i < 4'000'000; ++i) many += "0,";
  ExpectDamaged(SafetensorsFile(many + "0]}", ""), {"more than 4000000"});
}

TEST_F(CheckpointTest, RefusesANameThatIsThereTwice) {
  const std::string entry =
      R"("t":{"dtype":"F32","shape":[1],"data_offsets":[)";
  ExpectDamaged(
      SafetensorsFile(absl::StrCat("{", entry, "0,4]},", entry, "4,8]}}"),
                      "01234567"),
      {"\"t\"", "twice"});
}

TEST_F(CheckpointTest, RefusesAKeyThatIsThereTwiceInAnEntry) {
  ExpectDamaged(OneTensor(R"({"dtype":"F32","shape":[1],"shape":[2],)"
                          R"("data_offsets":[0,8]})"),
                {"\"shape\"", "twice"});
}

TEST_F(CheckpointTest, RefusesAnEntryThatIsNoObject) {
  ExpectDamaged(OneTensor("[]"), {"\"t\""});
}

TEST_F(CheckpointTest, RefusesAnUnknownDtype) {
  ExpectDamaged(
      OneTensor(R"({"dtype":"F31","shape":[2],"data_offsets":[0,8]})"),
      {"\"t\"", "F31"});
}

TEST_F(CheckpointTest, RefusesADtypeThatIsNoString) {
  ExpectDamaged(OneTensor(R"({"dtype":32,"shape":[2],"data_offsets":[0,8]})"),
                {"dtype"});
  ExpectDamaged(OneTensor(R"({"shape":[2],"data_offsets":[0,8]})"), {"dtype"});
}

TEST_F(CheckpointTest, RefusesShapesThatAreNotNaturalNumbers) {
  for (const char* shape :
       {"[-2]", "[2.0]", "[\"2\"]", "[true]", "[[2]]", "2", "null",
        "[18446744073709551615]", "[9223372036854775808]", "[1e99]"}) {
    ExpectDamaged(OneTensor(absl::StrCat(R"({"dtype":"F32","shape":)", shape,
                                         R"(,"data_offsets":[0,8]})")),
                  {"\"t\"", "shape"});
  }
  ExpectDamaged(OneTensor(R"({"dtype":"F32","data_offsets":[0,8]})"),
                {"shape"});
}

TEST_F(CheckpointTest, RefusesAShapeOfTooManyDimensions) {
  std::string ones = "2";
  for (int i = 0; i < 16; ++i) ones += ",1";
  ExpectDamaged(OneTensor(absl::StrCat(R"({"dtype":"F32","shape":[)", ones,
                                       R"(],"data_offsets":[0,8]})")),
                {"shape"});
}

TEST_F(CheckpointTest, RefusesAShapeWhoseProductOverflows) {
  // 2^32 * 2^31 elements of 4 bytes are 2^65, which wraps around to 0.
  for (const char* shape :
       {"[4294967296,2147483648]", "[9223372036854775807,4]",
        "[4294967296,4294967296,2]"}) {
    ExpectDamaged(OneTensor(absl::StrCat(R"({"dtype":"F32","shape":)", shape,
                                         R"(,"data_offsets":[0,8]})")),
                  {"\"t\"", "over 2^63"});
  }
}

TEST_F(CheckpointTest, RefusesBytesThatDoNotFitTheShape) {
  ExpectDamaged(
      OneTensor(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"),
      {"\"t\"", "8 bytes, expected 12", "[3]"});
  ExpectDamaged(
      OneTensor(R"({"dtype":"F16","shape":[2],"data_offsets":[0,8]})"),
      {"8 bytes, expected 4"});
}

TEST_F(CheckpointTest, RefusesOffsetsOutsideOfTheFile) {
  for (const char* offsets : {"[0,9]", "[8,16]", "[0,9223372036854775807]"}) {
    ExpectDamaged(
        OneTensor(absl::StrCat(R"({"dtype":"F32","shape":[2],"data_offsets":)",
                               offsets, "}")),
        {"\"t\"", "of 8 bytes of data"});
  }
}

TEST_F(CheckpointTest, RefusesOffsetsThatAreNotTwoNaturalNumbers) {
  for (const char* offsets : {"[8]", "[0,8,8]", "[-8,0]", "[0.0,8.0]", "8",
                              "[0,18446744073709551615]", "{}"}) {
    ExpectDamaged(
        OneTensor(absl::StrCat(R"({"dtype":"F32","shape":[2],"data_offsets":)",
                               offsets, "}")),
        {"\"t\"", "data_offsets"});
  }
}

TEST_F(CheckpointTest, RefusesOffsetsInTheWrongOrder) {
  ExpectDamaged(
      OneTensor(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"),
      {"\"t\"", "8 to 0"});
}

TEST_F(CheckpointTest, RefusesTensorsThatOverlap) {
  ExpectDamaged(SafetensorsFile(
                    R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                    R"("u":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                    "0123456789ab"),
                {"\"u\"", "overlap"});
}

TEST_F(CheckpointTest, RefusesAGapBetweenTensors) {
  ExpectDamaged(SafetensorsFile(
                    R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                    R"("u":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
                    "0123456789ab"),
                {"\"u\"", "gaps"});
}

TEST_F(CheckpointTest, RefusesDataThatBelongsToNoTensor) {
  ExpectDamaged(SafetensorsFile({{"t", two_floats_}}) + "more",
                {"12 bytes of data, expected 8"});
}

TEST_F(CheckpointTest, RefusesATruncatedFileAtEveryLength) {
  const std::string file =
      SafetensorsFile({{"t", two_floats_}, {"u", three_floats_}});
  for (size_t length = 0; length < file.size(); ++length) {
    EXPECT_EQ(Open(file.substr(0, length)).status().code(),
              absl::StatusCode::kDataLoss)
        << length;
  }
  EXPECT_TRUE(Open(file).ok());
}

TEST_F(CheckpointTest, RefusesAFolderInPlaceOfTheFile) {
  std::filesystem::create_directory(folder_.path() + "/model.safetensors");
  ExpectDamaged({"not a regular file"});
}

TEST_F(CheckpointTest, RefusesAPipeWithoutWaitingForIt) {
  ASSERT_EQ(mkfifo((folder_.path() + "/model.safetensors").c_str(), 0600), 0);
  ExpectDamaged({"not a regular file"});
}

// --- Shards.

TEST_F(CheckpointTest, ReadsShards) {
  folder_.Write("1.safetensors", SafetensorsFile({{"t", two_floats_}}));
  folder_.Write("2.safetensors", SafetensorsFile({{"u", three_floats_}}));
  WriteIndex(R"("t":"1.safetensors","u":"2.safetensors")");
  const auto checkpoint = Open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT((*checkpoint)->Names(), ElementsAre("t", "u"));
  EXPECT_THAT(WidenToFloat32((*checkpoint)->Get("u").value()),
              ElementsAre(3, 4, 5));
}

TEST_F(CheckpointTest, RefusesAnIndexThatNamesAMissingShard) {
  folder_.Write("1.safetensors", SafetensorsFile({{"t", two_floats_}}));
  WriteIndex(R"("t":"1.safetensors","u":"2.safetensors")");
  ExpectDamaged({"index.json", "\"2.safetensors\"", "missing"});
}

TEST_F(CheckpointTest, RefusesAShardOutsideOfTheFolder) {
  std::filesystem::create_directory(folder_.path() + "/inner");
  folder_.Write("inner/1.safetensors", SafetensorsFile({{"t", two_floats_}}));
  for (const char* path : {"inner/1.safetensors", "/etc/passwd", "..", ".",
                           "../x.safetensors", "", "x\\u0000.safetensors"}) {
    WriteIndex(absl::StrCat(R"("t":")", path, "\""));
    ExpectDamaged({"index.json", "\"t\"", "in the same folder"});
  }
}

TEST_F(CheckpointTest, RefusesATensorThatIsNotInItsShard) {
  folder_.Write("1.safetensors", SafetensorsFile({{"t", two_floats_}}));
  folder_.Write("2.safetensors", SafetensorsFile({{"u", three_floats_}}));
  WriteIndex(R"("t":"2.safetensors","u":"2.safetensors")");
  ExpectDamaged({"\"t\"", "not in its shard", "2.safetensors"});
  WriteIndex(R"("t":"2.safetensors","u":"1.safetensors")");
  ExpectDamaged({"\"t\"", "not in its shard", "2.safetensors"});
}

TEST_F(CheckpointTest, RefusesATensorThatIsInTwoShards) {
  folder_.Write("1.safetensors", SafetensorsFile({{"t", two_floats_}}));
  folder_.Write("2.safetensors",
                SafetensorsFile({{"t", two_floats_}, {"u", three_floats_}}));
  WriteIndex(R"("t":"1.safetensors","u":"2.safetensors")");
  ExpectDamaged({"\"t\"", "1.safetensors", "2.safetensors"});
}

TEST_F(CheckpointTest, RefusesADamagedShard) {
  folder_.Write("1.safetensors", "nothing");
  WriteIndex(R"("t":"1.safetensors")");
  ExpectDamaged({"1.safetensors"});
}

TEST_F(CheckpointTest, RefusesAnIndexWithoutAWeightMap) {
  for (const char* index : {"{}", "[]", "{\"weight_map\":[]}", "{", "",
                            "{\"weight_map\":{\"t\":1}}"}) {
    folder_.Write("model.safetensors.index.json", index);
    ExpectDamaged({"index.json"});
  }
}

// --- Anything at all.

// Changes `bytes` a little, as damage or malice would.
void Mutate(std::mt19937* random, std::string* bytes) {
  const auto below = [random](size_t limit) { return (*random)() % limit; };
  // Most of the interest is in the header, which comes first.
  const size_t reach = below(4) == 0 ? bytes->size() : bytes->size() / 4 + 1;
  const size_t place = below(reach);
  switch (below(6)) {
    case 0:
      (*bytes)[place] ^= 1 << below(8);
      break;
    case 1:
      (*bytes)[place] = static_cast<char>(below(256));
      break;
    case 2:
      bytes->resize(place);
      break;
    case 3:
      bytes->insert(place, 1, "0123456789[]{},:\"-"[below(18)]);
      break;
    case 4:
      bytes->erase(place, 1 + below(8));
      break;
    case 5:
      bytes->insert(below(reach), bytes->substr(place, below(32)));
      break;
  }
}

TEST_F(CheckpointTest, TwentyThousandMutationsGiveAStatusAndNeverACrash) {
  RandomMambaShape shape;
  shape.layers = 1;
  shape.d_model = 3;
  shape.d_inner = 5;
  shape.d_state = 2;
  shape.dt_rank = 1;
  shape.vocab = 6;
  const std::string config = RandomMambaConfig(shape);
  const std::string file = SafetensorsFile(RandomMambaTensors(shape));
  const auto backend = MakeBackend({BackendKind::kCpu, 1});
  ASSERT_TRUE(backend.ok());
  ModelLimits limits;
  limits.slots = 1;
  limits.max_batch_tokens = 1;
  limits.max_logits_rows = 1;
  std::mt19937 random(1);
  int loaded = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string changed = file;
    std::string changed_config = config;
    // One to three changes; every fifth time in the configuration.
    for (int left = random() % 3; left >= 0; --left) {
      std::string* bytes = random() % 5 == 0 ? &changed_config : &changed;
      if (!bytes->empty()) Mutate(&random, bytes);
    }
    folder_.Write("model.safetensors", changed);
    folder_.Write("config.json", changed_config);
    const auto model = LoadModel(folder_.path(), backend->get(), limits, 0);
    if (model.ok()) ++loaded;
  }
  // Changed numbers of a tensor still are a model; most changes are damage.
  EXPECT_GT(loaded, 100);
  EXPECT_LT(loaded, 10'000);
  RecordProperty("loaded", loaded);
}

}  // namespace
}  // namespace engram

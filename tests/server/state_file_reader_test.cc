#include "server/state_file_reader.h"

#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/state_file.h"
#include "tests/server/state_file_test.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Code = absl::StatusCode;
using Json = nlohmann::json;

constexpr size_t kLengthBytes = sizeof(uint64_t);

// A file taken apart.
struct Parts {
  Json header;
  std::string data;
};

class StateFileReaderTest : public StateFileTest {
 protected:
  static Parts TakeApart(const std::string& file) {
    uint64_t bytes = 0;
    std::memcpy(&bytes, file.data(), kLengthBytes);
    return {HeaderOf(file), file.substr(kLengthBytes + bytes)};
  }
  static std::string WithHeader(const std::string& header,
                                const std::string& data) {
    const uint64_t bytes = header.size();
    std::string file(kLengthBytes, '\0');
    std::memcpy(file.data(), &bytes, kLengthBytes);
    return file + header + data;
  }
  static std::string PutTogether(const Parts& parts) {
    return WithHeader(parts.header.dump(), parts.data);
  }
  // What the checksum of the parts is to be.
  static void Seal(Parts* parts) {
    StateFileChecksum checksum;
    StateFileMetadata metadata = parts->header["__metadata__"];
    checksum.Add(metadata);
    for (const auto& [name, entry] : parts->header.items()) {
      if (name == "__metadata__") continue;
      const size_t begin = entry["data_offsets"][0];
      const size_t end = entry["data_offsets"][1];
      checksum.Add(name, parts->data.substr(begin, end - begin));
    }
    parts->header["__metadata__"]["checksum"] = checksum.Finish();
  }
  // The file after `change`, with the checksum that belongs to it.
  std::string Changed(const std::function<void(Parts*)>& change) const {
    Parts parts = TakeApart(Written());
    change(&parts);
    Seal(&parts);
    return PutTogether(parts);
  }
  std::string WithMetadata(const std::string& key,
                           const std::string& value) const {
    return Changed(
        [&](Parts* parts) { parts->header["__metadata__"][key] = value; });
  }

  absl::StatusOr<StateFileReader::State> Read(const std::string& file,
                                              size_t part = 1 << 20) {
    reserved_.clear();
    StateFileReader reader(
        {.find_model =
             [this](const std::string& told) -> absl::StatusOr<StateFileModel> {
           EXPECT_EQ(told, told_);
           return model_;
         },
         .reserve =
             [this](size_t bytes) {
               reserved_.push_back(bytes);
               return bytes <= room_ ? absl::OkStatus()
                                     : absl::ResourceExhaustedError("no room");
             },
         .checks_weights = checks_weights_});
    for (size_t at = 0; at < file.size(); at += part) {
      const absl::Status status = reader.Append(file.substr(at, part));
      if (!status.ok()) return status;
    }
    return reader.Finish();
  }
  void ExpectRefused(const std::string& file,
                     const ::testing::Matcher<std::string>& why) {
    const absl::Status status = Read(file).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), why);
  }
  // The same of a header of this text, without data.
  void ExpectHeaderRefused(const std::string& header, const std::string& why) {
    ExpectRefused(WithHeader(header, ""), HasSubstr(why));
    EXPECT_LE(reserved_.size(), 1u) << "memory for what is no state";
  }
  bool HoldsTheState(const StateFileReader::State& state) const {
    return state.turns.version == turns_.version &&
           state.turns.position == turns_.position &&
           state.turns.pending == turns_.pending &&
           state.block->size() == block_->size() &&
           std::memcmp(state.block->data(), block_->data(), block_->size()) ==
               0;
  }

  std::string told_ = "m";
  bool checks_weights_ = true;
  size_t room_ = std::numeric_limits<size_t>::max();
  std::vector<size_t> reserved_;
};

TEST_F(StateFileReaderTest, ReadsWhatWasWrittenInWhateverParts) {
  const std::string file = Written();
  for (const size_t part : {size_t{1}, size_t{3}, size_t{100}, file.size()}) {
    const auto state = Read(file, part);
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_TRUE(HoldsTheState(*state));
    EXPECT_EQ(state->model.name, "m");
    std::vector<int32_t> seen;
    state->turns.seen->ForEach([&](int32_t id) { seen.push_back(id); });
    EXPECT_THAT(seen, ::testing::ElementsAre(3, 64, 99));
  }
  turns_.pending.reset();
  const auto state = Read(Written());
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->turns.pending, std::nullopt);
}

TEST_F(StateFileReaderTest, WritesAgainWhatItHasRead) {
  const std::string file = Written();
  const auto state = Read(file);
  ASSERT_TRUE(state.ok()) << state.status();
  turns_ = state->turns;
  block_ = std::const_pointer_cast<StateBlock>(state->block);
  EXPECT_EQ(Written(), file);
}

TEST_F(StateFileReaderTest, TakesTensorsInAnyOrderAndMoreMetadata) {
  const std::string file = Changed([](Parts* parts) {
    parts->header["__metadata__"]["note"] = "of a friend";
    // The first of them, which is no larger than the last, goes behind it.
    Json* const first = &parts->header["conv_state.0"];
    const size_t bytes = (*first)["data_offsets"][1];
    parts->data = parts->data.substr(bytes) + parts->data.substr(0, bytes);
    for (auto& [name, entry] : parts->header.items()) {
      if (name == "__metadata__") continue;
      for (auto& offset : entry["data_offsets"]) {
        offset = offset.get<size_t>() - bytes;
      }
    }
    (*first)["data_offsets"] = {parts->data.size() - bytes, parts->data.size()};
  });
  const auto state = Read(file, 11);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_TRUE(HoldsTheState(*state));
}

TEST_F(StateFileReaderTest, TakesMemoryForTheHeaderAndThenForTheStateAlone) {
  const std::string file = Written();
  ASSERT_TRUE(Read(file).ok());
  uint64_t header = 0;
  std::memcpy(&header, file.data(), kLengthBytes);
  const size_t state = block_->size() + 3 * sizeof(int32_t);
  EXPECT_THAT(reserved_, ::testing::ElementsAre(header, state));
  room_ = std::max<size_t>(header, state);
  EXPECT_TRUE(Read(file).ok());
  room_ = std::min<size_t>(header, state) - 1;
  EXPECT_EQ(Read(file).status(), absl::ResourceExhaustedError("no room"));
}

TEST_F(StateFileReaderTest, RefusesAFileThatIsCutOrGoesOn) {
  const std::string file = Written();
  uint64_t header = 0;
  std::memcpy(&header, file.data(), kLengthBytes);
  ExpectRefused("", HasSubstr("ends after 0 bytes, within its header"));
  ExpectRefused(file.substr(0, 5), HasSubstr("ends after 5 bytes"));
  ExpectRefused(file.substr(0, kLengthBytes + header - 1),
                HasSubstr("within its header"));
  for (const size_t cut : {size_t{1}, file.size() - kLengthBytes - header}) {
    ExpectRefused(file.substr(0, file.size() - cut),
                  HasSubstr(" bytes of data, of "));
  }
  ExpectRefused(file + "x", HasSubstr("has more than the "));
}

TEST_F(StateFileReaderTest, RefusesHeadersThatAreNone) {
  const std::string file = Written();
  for (const uint64_t bytes : {uint64_t{0}, kStateFileHeaderMax + 1,
                               std::numeric_limits<uint64_t>::max()}) {
    std::string damaged = file;
    std::memcpy(damaged.data(), &bytes, kLengthBytes);
    ExpectRefused(damaged, AllOf(HasSubstr(absl::StrCat(bytes, " bytes")),
                                 HasSubstr("limit 1 to 262144")));
    EXPECT_THAT(reserved_, IsEmpty());
  }
  ExpectHeaderRefused("[]", "a header that is no object");
  ExpectHeaderRefused("{", "not JSON at byte");
  ExpectHeaderRefused(std::string(1000, '['), "nested deeper than 64");
  ExpectHeaderRefused("{\"\xff\": 1}", "not JSON");
  ExpectHeaderRefused(R"({"a": 1, "a": 2})", "key \"a\" is there twice");
  ExpectHeaderRefused("{}", "has no metadata: it is no engram-state");
  ExpectHeaderRefused(R"({"__metadata__": []})", "has no metadata");
  ExpectHeaderRefused(R"({"__metadata__": {"format": 1}})",
                      "metadata \"format\" that are no text");
}

TEST_F(StateFileReaderTest, RefusesAHeaderThatLacksSomething) {
  const Parts whole = TakeApart(Written());
  for (const auto& [key, value] : whole.header["__metadata__"].items()) {
    Parts parts = whole;
    parts.header["__metadata__"].erase(key);
    ExpectRefused(PutTogether(parts),
                  HasSubstr(absl::StrCat("has no metadata \"", key, "\"")));
  }
  for (const auto& [name, entry] : whole.header.items()) {
    if (name == "__metadata__") continue;
    for (const char* part : {"dtype", "shape", "data_offsets"}) {
      Parts parts = whole;
      parts.header[name].erase(part);
      ExpectRefused(PutTogether(parts),
                    HasSubstr(absl::StrCat("has a tensor \"", name,
                                           "\" that is not told by")));
    }
  }
}

TEST_F(StateFileReaderTest, RefusesOffsetsThatOverlapOrLeaveGaps) {
  const auto with_offsets = [&](size_t begin, size_t end) {
    Parts parts = TakeApart(Written());
    parts.header["conv_state.1"]["data_offsets"] = {begin, end};
    return PutTogether(parts);
  };
  ExpectRefused(with_offsets(56, 116), HasSubstr("overlap at byte 56"));
  ExpectRefused(with_offsets(64, 124), HasSubstr("leave a gap at byte 60"));
  ExpectRefused(with_offsets(120, 60), HasSubstr("is not told by"));
  ExpectRefused(with_offsets(60, uint64_t{1} << 60),
                HasSubstr("is not told by"));
  Parts parts = TakeApart(Written());
  for (const Json& offsets : {Json{-1, 60}, Json{0.5, 60}, Json{0, "60"},
                              Json{0, 60, 120}, Json{0}, Json("0")}) {
    parts.header["conv_state.0"]["data_offsets"] = offsets;
    ExpectRefused(PutTogether(parts), HasSubstr("is not told by"));
  }
}

TEST_F(StateFileReaderTest, RefusesTensorsThatAreNotTheModels) {
  const auto with = [&](const std::string& key, const Json& value) {
    return Changed(
        [&](Parts* parts) { parts->header["ssm_state.1"][key] = value; });
  };
  ExpectRefused(with("dtype", "F16"),
                AllOf(HasSubstr("\"ssm_state.1\" of \"F16\" [2, 2]"),
                      HasSubstr("model \"m\" has \"F32\" [2, 2] in 16")));
  ExpectRefused(with("shape", {4}), HasSubstr("of \"F32\" [4] in 16 bytes"));
  ExpectRefused(with("shape", {1 << 30, 1 << 30, 1 << 30}),
                HasSubstr("has a tensor \"ssm_state.1\""));
  ExpectRefused(Changed([](Parts* parts) {
                  parts->header["other"] = parts->header["ssm_state.1"];
                  parts->header.erase("ssm_state.1");
                }),
                HasSubstr("has no tensor \"ssm_state.1\""));
  ExpectRefused(Changed([](Parts* parts) {
                  const size_t end = parts->data.size();
                  parts->header["other"] = {{"dtype", "F32"},
                                            {"shape", {0}},
                                            {"data_offsets", {end, end}}};
                }),
                HasSubstr("has 8 tensors, and a state of model \"m\" has 7"));
}

TEST_F(StateFileReaderTest, RefusesIdsThatNoSessionHasSeen) {
  const auto with_shape = [&](const Json& shape) {
    return Changed(
        [&](Parts* parts) { parts->header["seen_tokens"]["shape"] = shape; });
  };
  ExpectRefused(with_shape({2}),
                HasSubstr("which is to be \"I32\" [1 to 100]"));
  ExpectRefused(with_shape({3, 1}), HasSubstr("\"seen_tokens\" of"));
  const auto with_ids = [&](const std::vector<int32_t>& ids) {
    return Changed([&](Parts* parts) {
      const size_t begin = parts->header["seen_tokens"]["data_offsets"][0];
      std::memcpy(parts->data.data() + begin, ids.data(),
                  ids.size() * sizeof(int32_t));
    });
  };
  ExpectRefused(with_ids({3, 64, 100}), HasSubstr("with 100 after 64"));
  ExpectRefused(with_ids({-1, 64, 99}), HasSubstr("with -1 after -1"));
  ExpectRefused(with_ids({64, 3, 99}), HasSubstr("with 3 after 64"));
  ExpectRefused(with_ids({3, 3, 99}), HasSubstr("within 0 to 99"));
}

TEST_F(StateFileReaderTest, RefusesAnotherModelsStateByNameWithBothValues) {
  const std::vector<std::pair<std::string, std::string>> others = {
      {"family", "h3"},
      {"vocabulary_size", "101"},
      {"dtype", "BF16"},
      {"weight_format", "int8"},
      {"weight_hash", "4567"}};
  for (const auto& [key, value] : others) {
    const std::string own = HeaderOf(Written())["__metadata__"][key];
    ExpectRefused(
        WithMetadata(key, value),
        AllOf(HasSubstr(absl::StrCat("has ", key, " \"", value, "\"")),
              HasSubstr("(of \"m\"), and model \"m\" has"),
              HasSubstr(absl::StrCat("\"", own, "\""))));
    EXPECT_EQ(reserved_.size(), 1u) << "memory for another model's state";
  }
  ExpectRefused(WithMetadata("weight_hash", "4567"),
                HasSubstr("--import-unchecked-weights"));
}

TEST_F(StateFileReaderTest, TakesOtherWeightsIfToldToAndNothingElse) {
  checks_weights_ = false;
  EXPECT_TRUE(Read(WithMetadata("weight_hash", "4567")).ok());
  for (const char* key : {"family", "vocabulary_size", "dtype", "weight_format",
                          "format", "format_version"}) {
    ExpectRefused(WithMetadata(key, "7"), HasSubstr(key));
  }
}

TEST_F(StateFileReaderTest, RefusesOtherFormatsAndVersions) {
  ExpectRefused(WithMetadata("format", "pt"),
                HasSubstr("is of format \"pt\", not \"engram-state\""));
  ExpectRefused(WithMetadata("format_version", "2"),
                HasSubstr("format_version \"2\", and this server reads \"1\""));
}

TEST_F(StateFileReaderTest, RefusesCountsThatCannotBe) {
  for (const char* key : {"position", "version"}) {
    for (const char* count : {"", "0", "-1", "01", "+1", " 1", "1.5", "1e3",
                              "9007199254740993", "99999999999999999999"}) {
      ExpectRefused(WithMetadata(key, count),
                    HasSubstr(absl::StrCat("has ", key, " \"", count, "\"")));
    }
  }
  for (const char* id : {"-1", "100", "064", "x", "4294967360"}) {
    ExpectRefused(
        WithMetadata("pending_token", id),
        AllOf(HasSubstr("has pending_token"), HasSubstr("limit 0 to 99")));
  }
}

TEST_F(StateFileReaderTest, RefusesMoreTokensThanTheModelHasPositionsFor) {
  model_.capacity.max_positions = 10;
  ExpectRefused(Written(), HasSubstr("has position \"11\", limit 1 to 10"));
  model_.capacity.max_positions = 11;
  EXPECT_TRUE(Read(Written()).ok());
  model_.capacity.kv_block_bytes = 64;
  model_.capacity.kv_blocks = 0;
  ExpectRefused(Written(), HasSubstr("limit 1 to 0"));
}

TEST_F(StateFileReaderTest, RefusesValuesThatNoStateHas) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
    ExpectRefused(Changed([&](Parts* parts) {
                    std::memcpy(parts->data.data() + 60 + 4 * 7, &value,
                                sizeof(value));
                  }),
                  AllOf(HasSubstr("has a tensor \"conv_state.1\" with"),
                        HasSubstr(" at 7")));
  }
}

TEST_F(StateFileReaderTest, RefusesWhatIsNotAsItsChecksumSays) {
  std::string file = Written();
  file[file.size() - 2] ^= 1;
  ExpectRefused(file, AllOf(HasSubstr("is damaged, or was changed"),
                            HasSubstr("checksum \"")));
  Parts parts = TakeApart(Written());
  parts.header["__metadata__"]["position"] = "12";
  ExpectRefused(PutTogether(parts), HasSubstr("is damaged"));
  parts.header["__metadata__"]["checksum"] = "";
  ExpectRefused(PutTogether(parts), HasSubstr("has checksum \"\""));
}

TEST_F(StateFileReaderTest, EndsWithWhatWhoeverHasTheModelsSays) {
  StateFileReader reader(
      {.find_model =
           [](const std::string& told) -> absl::StatusOr<StateFileModel> {
         return absl::NotFoundError(absl::StrCat("no model ", told));
       },
       .reserve = [](size_t) { return absl::OkStatus(); }});
  EXPECT_EQ(reader.Append(Written()), absl::NotFoundError("no model m"));
}

TEST_F(StateFileReaderTest, HasTheKeysAndValuesOfAttentionLayersToo) {
  ModelInfo info;
  info.layers = 3;
  info.state_bytes = pool_->state_bytes();
  info.kv_block_bytes = 64 * sizeof(float);
  info.kv_blocks = 2;
  model_.layout = StateLayout(pool_->components(), info);
  model_.capacity = CapacityOf(info);
  turns_.position = kKeyValueBlockTokens + 1;
  const auto block = block_;
  const auto keep_keys_of = [&](int blocks) {
    block_ = MakeBlock(block->size() + blocks * info.kv_block_bytes);
    std::memset(block_->data(), 1, block_->size());
    std::memcpy(block_->data(), block->data(), block->size());
  };
  keep_keys_of(2);
  const auto state = Read(Written(), 50);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_TRUE(HoldsTheState(*state));
  turns_.position = 2 * kKeyValueBlockTokens + 1;
  keep_keys_of(3);
  ExpectRefused(Written(), HasSubstr("limit 1 to 64"));
}

// One of some kinds of damage, at a place by chance.
void Mutate(std::string* file, std::minstd_rand* random) {
  const auto below = [&](size_t count) { return (*random)() % count; };
  const size_t at = below(file->size());
  switch (below(6)) {
    case 0:
      (*file)[at] = static_cast<char>(below(256));
      return;
    case 1:
      (*file)[at] ^= static_cast<char>(1 << below(8));
      return;
    case 2:
      file->erase(at, 1 + below(16));
      return;
    case 3:
      file->insert(at, file->substr(below(file->size()), below(40)));
      return;
    case 4:  // what is a digit is another one
      for (size_t i = at; i < file->size(); ++i) {
        if ((*file)[i] < '0' || (*file)[i] > '9') continue;
        (*file)[i] = static_cast<char>('0' + below(10));
        return;
      }
      return;
    default:
      file->resize(at);
  }
}

// Whatever is done to a file, it is refused with a reason, or is still the
// state that it was: a length may have lost a blank.
TEST_F(StateFileReaderTest, AnswersAnyMutationWithAStatus) {
  const std::string whole = Written();
  std::minstd_rand random(7);
  int refused = 0;
  constexpr int kMutations = 20000;
  told_ = "";
  for (int i = 0; i < kMutations; ++i) {
    std::string file = whole;
    for (int changes = 1 + static_cast<int>(random() % 2); changes > 0;
         --changes) {
      if (!file.empty()) Mutate(&file, &random);
    }
    StateFileReader reader(
        {.find_model = [this](const std::string&)
             -> absl::StatusOr<StateFileModel> { return model_; },
         .reserve =
             [this](size_t bytes) {
               EXPECT_LE(bytes, std::max<size_t>(kStateFileHeaderMax,
                                                 2 * block_->size()));
               return absl::OkStatus();
             }});
    absl::Status status = reader.Append(file);
    if (status.ok()) {
      const auto state = reader.Finish();
      status = state.status();
      EXPECT_TRUE(!state.ok() || HoldsTheState(*state));
    }
    if (status.ok()) continue;
    ++refused;
    ASSERT_EQ(status.code(), Code::kInvalidArgument) << status;
    ASSERT_LT(status.message().size(), 1000u) << status;
  }
  EXPECT_GT(refused, kMutations * 9 / 10);
}

}  // namespace
}  // namespace engram

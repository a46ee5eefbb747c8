#include "server/state_file.h"

#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/status.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

constexpr int64_t kVocabulary = 100;

// A pool of a model of three layers, two of which have a conv_state, and one of
// its states, in which every float tells where it lies.
class StateFileTest : public ::testing::Test {
 protected:
  StateFileTest()
      : backend_(
            MakeBackend({.kind = BackendKind::kCpu, .threads = 1}).value()),
        pool_(StatePool::Create(backend_.get(),
                                {{"conv_state", 2, {3, 5}},
                                 {"ssm_state", 3, {2, 2}},
                                 {"last_hidden", 1, {7}}},
                                /*slots=*/1)
                  .value()) {
    ModelInfo info;
    info.layers = 3;
    info.state_bytes = pool_->state_bytes();
    model_ = {.name = "m",
              .family = "mamba",
              .weight_hash = "0123",
              .weight_format = "f32",
              .vocabulary_size = kVocabulary,
              .layout = StateLayout(pool_->components(), info)};
    const int slot = pool_->Take();
    for (int i = 0; i < 3; ++i) {
      const StateComponent& component = pool_->components()[i];
      for (int64_t layer = 0; layer < component.layers; ++layer) {
        float* const floats = pool_->Layer(i, layer)[slot];
        for (int64_t k = 0; k < component.floats(); ++k) {
          floats[k] = ValueAt(i, layer, k);
        }
      }
    }
    block_ = MakeBlock(pool_->bytes(slot));
    ENGRAM_CHECK_OK(pool_->Save(slot, block_->data()));
    auto seen = std::make_shared<TokenSet>(kVocabulary);
    for (int32_t id : {3, 64, 99}) seen->Insert(id);
    turns_.version = 2;
    turns_.position = 11;
    turns_.pending = 64;
    turns_.seen = std::move(seen);
  }

  static float ValueAt(int64_t component, int64_t layer, int64_t index) {
    return static_cast<float>(10000 * component + 100 * layer + index + 1);
  }

  // All of the file, read in parts of so many bytes.
  std::string Written(size_t part = 1 << 20) const {
    StateFileWriter writer(model_, turns_, block_);
    std::string file;
    while (true) {
      const std::string next = writer.Next(part);
      EXPECT_LE(next.size(), part);
      if (next.empty()) break;
      file += next;
    }
    EXPECT_EQ(file.size(), writer.bytes());
    return file;
  }
  static nlohmann::json HeaderOf(const std::string& file) {
    uint64_t bytes = 0;
    std::memcpy(&bytes, file.data(), sizeof(bytes));
    return nlohmann::json::parse(file.substr(sizeof(bytes), bytes));
  }
  // As many as its shape says.
  template <typename Value>
  static std::vector<Value> ValuesOf(const std::string& file,
                                     const std::string& name) {
    uint64_t bytes = 0;
    std::memcpy(&bytes, file.data(), sizeof(bytes));
    const nlohmann::json entry = HeaderOf(file)[name];
    size_t count = 1;
    for (const size_t dimension : entry["shape"]) count *= dimension;
    const size_t begin = entry["data_offsets"][0];
    EXPECT_EQ(begin + count * sizeof(Value), entry["data_offsets"][1]);
    std::vector<Value> values(count);
    std::memcpy(values.data(), file.data() + sizeof(bytes) + bytes + begin,
                count * sizeof(Value));
    return values;
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<StatePool> pool_;
  StateFileModel model_;
  std::shared_ptr<StateBlock> block_;
  CommittedTurns turns_;
};

TEST_F(StateFileTest, HasATensorForEachComponentAndLayer) {
  const std::string file = Written();
  const nlohmann::json header = HeaderOf(file);
  std::vector<std::string> names;
  for (const auto& [name, entry] : header.items()) names.push_back(name);
  EXPECT_THAT(
      names, UnorderedElementsAre("__metadata__", "conv_state.0",
                                  "conv_state.1", "last_hidden", "seen_tokens",
                                  "ssm_state.0", "ssm_state.1", "ssm_state.2"));
  EXPECT_EQ(header["conv_state.1"]["dtype"], "F32");
  EXPECT_EQ(header["conv_state.1"]["shape"], nlohmann::json({3, 5}));
  const std::vector<std::pair<std::string, int64_t>> components = {
      {"conv_state", 2}, {"ssm_state", 3}};
  for (int i = 0; i < 2; ++i) {
    for (int64_t layer = 0; layer < components[i].second; ++layer) {
      const std::vector<float> values =
          ValuesOf<float>(file, absl::StrCat(components[i].first, ".", layer));
      for (size_t k = 0; k < values.size(); ++k) {
        EXPECT_EQ(values[k], ValueAt(i, layer, static_cast<int64_t>(k)));
      }
    }
  }
  EXPECT_EQ(ValuesOf<float>(file, "last_hidden")[6], ValueAt(2, 0, 6));
  EXPECT_EQ(header["seen_tokens"]["dtype"], "I32");
  EXPECT_THAT(ValuesOf<int32_t>(file, "seen_tokens"), ElementsAre(3, 64, 99));
}

TEST_F(StateFileTest, TellsWhatItIsOf) {
  const nlohmann::json metadata = HeaderOf(Written())["__metadata__"];
  const std::map<std::string, std::string> expected = {
      {"format", "engram-state"},
      {"format_version", "1"},
      {"model", "m"},
      {"family", "mamba"},
      {"weight_hash", "0123"},
      {"weight_format", "f32"},
      {"vocabulary_size", "100"},
      {"version", "2"},
      {"position", "11"},
      {"pending_token", "64"},
      {"dtype", "F32"}};
  for (const auto& [key, value] : expected) EXPECT_EQ(metadata[key], value);
  EXPECT_EQ(metadata.size(), expected.size() + 1);
  EXPECT_EQ(metadata["checksum"].get<std::string>().size(), 64);
  turns_.pending.reset();
  EXPECT_EQ(HeaderOf(Written())["__metadata__"]["pending_token"], "");
}

TEST_F(StateFileTest, HasAnotherChecksumForAnyOtherContent) {
  const auto checksum = [&] {
    return HeaderOf(Written())["__metadata__"]["checksum"].get<std::string>();
  };
  const std::string before = checksum();
  EXPECT_EQ(checksum(), before);
  ++turns_.position;
  EXPECT_NE(checksum(), before);
  --turns_.position;
  block_->data()[0] ^= std::byte{1};
  EXPECT_NE(checksum(), before);
}

TEST_F(StateFileTest, IsTheSameInWhateverPartsItIsRead) {
  const std::string whole = Written();
  for (const size_t part : {1, 7, 64, 1000}) EXPECT_EQ(Written(part), whole);
  // Data begin at a multiple of eight bytes.
  uint64_t bytes = 0;
  std::memcpy(&bytes, whole.data(), sizeof(bytes));
  EXPECT_EQ(bytes % 8, 0);
}

TEST_F(StateFileTest, HasTheKeysAndValuesOfAttentionLayersByBlocks) {
  ModelInfo info;
  info.layers = 3;
  info.state_bytes = pool_->state_bytes();
  info.kv_block_bytes = 64 * sizeof(float);
  model_.layout = StateLayout(pool_->components(), info);
  turns_.position = kKeyValueBlockTokens + 1;
  const auto with_keys =
      MakeBlock(pool_->state_bytes() + 2 * 64 * sizeof(float));
  std::memcpy(with_keys->data(), block_->data(), pool_->state_bytes());
  auto* const keys =
      reinterpret_cast<float*>(with_keys->data() + pool_->state_bytes());
  for (int i = 0; i < 128; ++i) keys[i] = static_cast<float>(i);
  block_ = with_keys;
  const std::string file = Written();
  EXPECT_EQ(HeaderOf(file)["key_values"]["shape"], nlohmann::json({2, 64}));
  EXPECT_EQ(ValuesOf<float>(file, "key_values")[100], 100);
}

}  // namespace
}  // namespace engram

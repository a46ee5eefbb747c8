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
#include "tests/server/state_file_test.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

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

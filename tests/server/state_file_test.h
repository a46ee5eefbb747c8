// A state file to look at: of a small model whose states tell where each float
// lies.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "model/state_pool.h"
#include "server/model_capacity.h"
#include "server/state_file.h"
#include "tests/server/test_engine.h"

namespace engram {

inline constexpr int64_t kVocabulary = 100;

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
              .capacity = CapacityOf(info),
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

}  // namespace engram

// StateLayout: what lies where in a block of state (server/state_block.h), as
// tensors with the field's names and shapes, so that it can be told to others
// (server/state_file.h).
//
// Thread-safe: constant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "model/model.h"
#include "model/state_pool.h"

namespace engram {

// A piece of a block: float32, row-major.
struct StateTensor {
  // "ssm_state.3": of the fourth of the layers that have one. "last_hidden",
  // without a number, is the whole model's. "key_values" are those of all
  // attention layers, by blocks of kKeyValueBlockTokens tokens.
  std::string name;
  std::vector<int64_t> shape;
  size_t offset = 0;  // in the block, in bytes
  size_t bytes = 0;
};

class StateLayout {
 public:
  StateLayout() = default;
  // Of a model's StatePool::components().
  StateLayout(const std::vector<StateComponent>& components,
              const ModelInfo& info);

  // Of a state after `tokens` tokens, at least one, in the order of the block.
  std::vector<StateTensor> TensorsAfter(int64_t tokens) const;
  size_t BytesAfter(int64_t tokens) const;

 private:
  std::vector<StateTensor> tensors_;  // but for keys and values
  size_t state_bytes_ = 0;
  size_t kv_block_bytes_ = 0;
};

}  // namespace engram

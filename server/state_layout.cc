#include "server/state_layout.h"

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

// What the model has once, whatever its layers.
constexpr char kOfTheModel[] = "last_hidden";

}  // namespace

StateLayout::StateLayout(const std::vector<StateComponent>& components,
                         const ModelInfo& info)
    : kv_block_bytes_(info.kv_block_bytes) {
  for (const StateComponent& component : components) {
    const size_t layer_bytes = component.floats() * sizeof(float);
    for (int64_t layer = 0; layer < component.layers; ++layer) {
      tensors_.push_back(
          {.name = component.name == kOfTheModel
                       ? component.name
                       : absl::StrCat(component.name, ".", layer),
           .shape = component.shape,
           .offset = state_bytes_ + layer * layer_bytes,
           .bytes = layer_bytes});
    }
    const size_t bytes = component.layers * layer_bytes;
    state_bytes_ +=
        (bytes + kStateAlignment - 1) / kStateAlignment * kStateAlignment;
  }
  ENGRAM_CHECK(state_bytes_ == info.state_bytes);
}

size_t StateLayout::BytesAfter(int64_t tokens) const {
  return state_bytes_ + kv_block_bytes_ * KeyValueBlocks(tokens);
}

std::vector<StateTensor> StateLayout::TensorsAfter(int64_t tokens) const {
  std::vector<StateTensor> tensors = tensors_;
  if (kv_block_bytes_ == 0) return tensors;
  const int64_t blocks = KeyValueBlocks(tokens);
  tensors.push_back(
      {.name = "key_values",
       .shape = {blocks, static_cast<int64_t>(kv_block_bytes_ / sizeof(float))},
       .offset = state_bytes_,
       .bytes = kv_block_bytes_ * blocks});
  return tensors;
}

}  // namespace engram

#include "model/block_stack.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "kernels/status.h"

namespace engram {
namespace {

// The kinds of mixers that a model has, by their first layers.
std::vector<MixerKind> KindsOf(const ModelConfig& config) {
  std::vector<MixerKind> kinds;
  for (const MixerKind kind : config.mixers) {
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) {
      kinds.push_back(kind);
    }
  }
  return kinds;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BlockStack>> BlockStack::Load(
    const ModelConfig& config, Backend* backend, WeightLoader* loader) {
  ENGRAM_CHECK(!config.mixers.empty());
  std::unique_ptr<BlockStack> stack(new BlockStack(backend));
  ENGRAM_RETURN_IF_ERROR(stack->LoadLayers(config, loader));
  ENGRAM_RETURN_IF_ERROR(stack->LoadKinds(config, loader));
  return stack;
}

// All but the mixers.
absl::Status BlockStack::LoadLayers(const ModelConfig& config,
                                    WeightLoader* loader) {
  for (int64_t i = 0; i < config.layers(); ++i) {
    Layer layer;
    ENGRAM_ASSIGN_OR_RETURN(
        layer.norm,
        LoadNorm(LayerTensorName(i, config.names.mixer_norm), config, loader));
    if (config.mlp.kind != MlpKind::kNone) {
      ENGRAM_ASSIGN_OR_RETURN(
          layer.mlp_norm,
          LoadNorm(LayerTensorName(i, "norm2"), config, loader));
      ENGRAM_ASSIGN_OR_RETURN(layer.mlp,
                              LoadMlp(LayerTensorName(i, "mlp"), config.mlp,
                                      config.d_model, loader));
    }
    layers_.push_back(std::move(layer));
  }
  return absl::OkStatus();
}

absl::Status BlockStack::LoadKinds(const ModelConfig& config,
                                   WeightLoader* loader) {
  int components = 0;
  for (const MixerKind kind : KindsOf(config)) {
    const std::vector<int64_t> layers = config.LayersWith(kind);
    for (size_t index = 0; index < layers.size(); ++index) {
      layers_[layers[index]].kind = kinds_.size();
      layers_[layers[index]].index = static_cast<int64_t>(index);
    }
    Kind loaded;
    loaded.first_component = components;
    ENGRAM_ASSIGN_OR_RETURN(loaded.mixers,
                            LoadMixers(kind, layers, config, backend_, loader));
    components += static_cast<int>(loaded.mixers->StateComponents().size());
    kinds_.push_back(std::move(loaded));
  }
  return absl::OkStatus();
}

int64_t BlockStack::ScratchFloats() const {
  int64_t floats = 0;
  for (const Kind& kind : kinds_) {
    floats = std::max(floats, kind.mixers->ScratchFloats());
  }
  for (const Layer& layer : layers_) {
    if (!layer.mlp.has_value()) continue;
    floats = std::max(
        floats, layer.mlp->Block(layer.mlp_norm->weights()).ScratchFloats());
  }
  return floats;
}

std::vector<StateComponent> BlockStack::StateComponents() const {
  std::vector<StateComponent> all;
  for (const Kind& kind : kinds_) {
    for (StateComponent& component : kind.mixers->StateComponents()) {
      all.push_back(std::move(component));
    }
  }
  return all;
}

KeyValueShape BlockStack::KeyValues() const {
  KeyValueShape shape;
  for (const Kind& kind : kinds_) {
    const KeyValueShape own = kind.mixers->KeyValues();
    if (own.layers == 0) continue;
    ENGRAM_CHECK(shape.layers == 0);
    shape = own;
  }
  return shape;
}

void BlockStack::Run(const StepRows& rows, StatePool* states, float* residual) {
  MixerStep step = {
      .rows = rows, .states = states, .norm = {}, .residual = residual};
  for (const Layer& layer : layers_) {
    const Kind& kind = kinds_[layer.kind];
    step.first_component = kind.first_component;
    step.norm = layer.norm.weights();
    kind.mixers->Run(layer.index, step);
    if (!layer.mlp.has_value()) continue;
    backend_->MlpBlock(rows, layer.mlp->Block(layer.mlp_norm->weights()),
                       residual);
  }
}

std::vector<const float*> BlockStack::KeyValuesOf(int64_t layer,
                                                  const StatePool& states,
                                                  const void* saved,
                                                  int64_t position) const {
  const Layer& own = layers_[layer];
  std::vector<const float*> blocks;
  if (saved == nullptr || kinds_[own.kind].mixers->KeyValues().layers == 0) {
    return blocks;
  }
  for (int64_t i = 0; i < KeyValueBlocks(position); ++i) {
    blocks.push_back(states.SavedKeyValues(saved, own.index, i));
  }
  return blocks;
}

std::vector<BlockStack::LayerState> BlockStack::StatesOf(
    int64_t layer, const StatePool& states, const void* saved) const {
  const Layer& own = layers_[layer];
  const Kind& kind = kinds_[own.kind];
  std::vector<LayerState> all;
  int component = kind.first_component;
  for (StateComponent& shape : kind.mixers->StateComponents()) {
    LayerState state;
    state.mixer = kind.mixers->name();
    state.fades = shape.name == kind.mixers->fading_state();
    state.component = std::move(shape);
    if (saved != nullptr) {
      state.values = states.SavedLayer(saved, component, own.index);
    }
    ++component;
    all.push_back(std::move(state));
  }
  return all;
}

BlockStack::MixerOfLayer BlockStack::MixerOf(int64_t layer) const {
  const Mixers& mixers = *kinds_[layers_[layer].kind].mixers;
  return {mixers.name(), mixers.taps()};
}

absl::StatusOr<BlockStack::ProbedLayer> BlockStack::Probe(
    int64_t layer, const StatePool& states, const void* saved, int64_t position,
    HostProducts* products) const {
  const Layer& own = layers_[layer];
  const Mixers& mixers = *kinds_[own.kind].mixers;
  SavedLayer share;
  for (const LayerState& state : StatesOf(layer, states, saved)) {
    share.components.push_back(state.values);
  }
  share.position = position;
  share.blocks = KeyValuesOf(layer, states, saved, position);
  ProbedLayer probed;
  probed.norm = own.norm.weights();
  probed.mixer = mixers.name();
  ENGRAM_ASSIGN_OR_RETURN(probed.probe,
                          mixers.Probe(own.index, share, products));
  if (own.mlp.has_value()) {
    probed.mlp = own.mlp->Block(own.mlp_norm->weights());
  }
  return probed;
}

}  // namespace engram

// BlockStack: the layers of a model, whatever its family. A layer is one or two
// blocks of the back end (kernels/blocks.h): a norm and a mixer of tokens, and,
// if the model has them, a norm and an MLP.
//
// The configuration says which mixer each layer has, so that a hybrid is a list
// like any other. Source: Mamba, arXiv 2312.00752, section 3.4; H3, arXiv
// 2212.14052, figure 1.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "model/mixer.h"
#include "model/model.h"
#include "model/model_config.h"
#include "model/modules.h"
#include "model/state_pool.h"
#include "model/weight_loader.h"

namespace engram {

// Engine thread only, like the model that owns it.
class BlockStack {
 public:
  // `backend` must outlive the stack; `loader` is not needed afterwards. Errors
  // as for LoadModel().
  static absl::StatusOr<std::unique_ptr<BlockStack>> Load(
      const ModelConfig& config, Backend* backend, WeightLoader* loader);

  // What the layers keep of a sequence, in the order of the state pool, whose
  // first components these are.
  std::vector<StateComponent> StateComponents() const;
  // What attention layers keep of every token; layers 0: there are none.
  KeyValueShape KeyValues() const;

  // What the back end needs of a token for any of the blocks, which is to be
  // reserved before they run (Backend::ReserveSteps).
  int64_t ScratchFloats() const;

  // All layers one after the other, with the rows' states moved on.
  //   residual  [tokens, d_model] in and out
  void Run(const StepRows& rows, StatePool* states, float* residual);

  // --- What is looked into (model/inspection.h).

  int64_t layers() const { return static_cast<int64_t>(layers_.size()); }

  // One layer on the host: its norm, its mixer on a copy of the state, and what
  // comes after the mixer, if anything does.
  struct ProbedLayer {
    NormWeights norm;
    const char* mixer = "";
    std::unique_ptr<MixerProbe> probe;
    std::optional<MlpBlockArguments> mlp;
  };
  // `saved` as StatePool::Save wrote it after `position` tokens, nullptr
  // without any; it must outlive what is returned. INTERNAL: the device failed.
  absl::StatusOr<ProbedLayer> Probe(int64_t layer, const StatePool& states,
                                    const void* saved, int64_t position,
                                    HostProducts* products) const;

  struct MixerOfLayer {
    const char* name = "";  // Mixers::name()
    int64_t taps = 0;       // Mixers::taps()
  };
  MixerOfLayer MixerOf(int64_t layer) const;

  // A component of one layer's.
  struct LayerState {
    const char* mixer = "";
    StateComponent component;
    bool fades = false;             // Mixers::fading_state()
    const float* values = nullptr;  // in `saved`; nullptr without
  };
  std::vector<LayerState> StatesOf(int64_t layer, const StatePool& states,
                                   const void* saved) const;
  // The blocks of its keys and values, the last of which may be part empty;
  // none if it keeps none.
  std::vector<const float*> KeyValuesOf(int64_t layer, const StatePool& states,
                                        const void* saved,
                                        int64_t position) const;

 private:
  // The mixers of one kind.
  struct Kind {
    std::unique_ptr<Mixers> mixers;
    int first_component = 0;
  };
  struct Layer {
    Norm norm;
    size_t kind = 0;    // in kinds_
    int64_t index = 0;  // among the layers of the kind
    std::optional<Norm> mlp_norm;
    std::optional<Mlp> mlp;
  };

  explicit BlockStack(Backend* backend) : backend_(backend) {}
  absl::Status LoadLayers(const ModelConfig& config, WeightLoader* loader);
  absl::Status LoadKinds(const ModelConfig& config, WeightLoader* loader);
  Backend* const backend_;
  std::vector<Layer> layers_;
  std::vector<Kind> kinds_;
};

}  // namespace engram

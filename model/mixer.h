// Mixers: what mixes tokens in the layers of a model (model/block_stack.h has
// the skeleton around them). One object holds the mixers of one kind, over all
// the layers that have it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "model/mixer_probe.h"
#include "model/model_config.h"
#include "model/state_pool.h"
#include "model/weight_loader.h"

namespace engram {

// What a mixer works on in one step.
struct MixerStep {
  const StepRows& rows;
  StatePool* states = nullptr;
  int first_component = 0;    // of those of its kind, in `states`
  NormWeights norm;           // before the mixer
  float* residual = nullptr;  // [tokens, d_model] in and out

  // Of one layer of its kind, a component by its place in StateComponents().
  LayerShares State(int component, int64_t index) const {
    return states->Layer(first_component + component, index);
  }
};

// Engine thread only, like the model that owns it.
class Mixers {
 public:
  virtual ~Mixers() = default;

  // What they keep of a sequence, in the order of the state pool.
  virtual std::vector<StateComponent> StateComponents() const = 0;
  // What they keep of every token; layers 0: nothing. Only one kind of a model
  // keeps something.
  virtual KeyValueShape KeyValues() const { return {}; }

  // What each of their blocks needs of the back end for a token, see
  // Backend::ReserveSteps.
  virtual int64_t ScratchFloats() const = 0;

  // residual += mixer(norm(residual)), with the rows' states moved on, as one
  // block of the back end. `index` counts the layers of this kind.
  virtual void Run(int64_t index, const MixerStep& step) = 0;

  // --- What is looked into (model/inspection.h).

  // "mamba", "mamba2", "h3", "s4d", "attention".
  virtual const char* name() const = 0;
  // The component that fades, by its name: the others keep their last tokens
  // whole, as many as the first number of their shapes. Empty: none.
  virtual const char* fading_state() const = 0;
  // Of the convolution of each layer, or of H3's shift SSM; 0: there is none.
  virtual int64_t taps() const { return 0; }
  // One layer on the host, on a copy of what was saved, whose memory must
  // outlive it. INTERNAL: the device failed.
  virtual absl::StatusOr<std::unique_ptr<MixerProbe>> Probe(
      int64_t index, const SavedLayer& saved, HostProducts* products) const = 0;
};

// The mixers of `layers`, which is not empty and has those of one kind.
// `backend` must outlive them; `loader` is not needed afterwards. Errors as for
// LoadModel().
absl::StatusOr<std::unique_ptr<Mixers>> LoadMixers(
    MixerKind kind, const std::vector<int64_t>& layers,
    const ModelConfig& config, Backend* backend, WeightLoader* loader);

}  // namespace engram

// HostLayer: one layer of a model on the host, on a copy of its state that was
// saved: a norm and the probe of its mixer, and what comes after, if anything
// does.
//
// Engine thread only, while no step is begun.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/inspected_model.h"
#include "model/mixer_probe.h"
#include "model/probe_math.h"

namespace engram {

class HostLayer {
 public:
  // `state` as StatePool::Save wrote it after `position` tokens, nullptr
  // without any. It must outlive this, as must the model and `products`.
  // INTERNAL: the device failed.
  static absl::StatusOr<HostLayer> Open(const InspectedModel& model,
                                        const void* state, int64_t position,
                                        int64_t layer, HostProducts* products);

  const char* mixer() const { return probed_.mixer; }
  MixerProbe& probe() { return *probed_.probe; }

  // All of the layer. `rows` is without `normed`. INTERNAL: the device failed.
  //   residual  [rows, d_model] in and out
  absl::StatusOr<ProbedOutputs> Feed(ProbedRows rows, float* residual);

 private:
  HostLayer(BlockStack::ProbedLayer probed, HostProducts* products)
      : probed_(std::move(probed)), products_(products) {}
  absl::Status AddMlp(int64_t rows, float* residual);

  BlockStack::ProbedLayer probed_;
  HostProducts* products_;
  HostNorm norm_;  // before the mixer
  std::optional<HostNorm> mlp_norm_;
};

}  // namespace engram

#include "model/mixer.h"

#include "absl/status/status.h"
#include "kernels/status.h"
#include "model/attention.h"
#include "model/h3.h"
#include "model/mamba.h"
#include "model/mamba2.h"
#include "model/s4d.h"

namespace engram {
namespace {

using Loader = absl::StatusOr<std::unique_ptr<Mixers>> (*)(
    const std::vector<int64_t>& layers, const ModelConfig& config,
    Backend* backend, WeightLoader* loader);

Loader LoaderOf(MixerKind kind) {
  switch (kind) {
    case MixerKind::kMamba:
      return LoadMambaMixers;
    case MixerKind::kMamba2:
      return LoadMamba2Mixers;
    case MixerKind::kH3:
      return LoadH3Mixers;
    case MixerKind::kS4d:
      return LoadS4dMixers;
    case MixerKind::kAttention:
      return LoadAttentionMixers;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Mixers>> LoadMixers(
    MixerKind kind, const std::vector<int64_t>& layers,
    const ModelConfig& config, Backend* backend, WeightLoader* loader) {
  const Loader load = LoaderOf(kind);
  ENGRAM_CHECK(load != nullptr && !layers.empty());
  return load(layers, config, backend, loader);
}

}  // namespace engram

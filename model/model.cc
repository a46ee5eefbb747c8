#include "model/model.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/checkpoint.h"
#include "model/language_model.h"
#include "model/mamba.h"
#include "model/mamba2.h"
#include "model/mixer_stack.h"
#include "model/model_config.h"
#include "model/renamed_checkpoint.h"
#include "model/weight_loader.h"

namespace engram {
namespace {

absl::StatusOr<std::unique_ptr<LayerStack>> LoadLayers(
    const ModelConfig& config, const ModelLimits& limits, Backend* backend,
    WeightLoader* loader) {
  switch (config.family) {
    case ModelFamily::kMamba:
      return LoadMambaLayers(config, limits, backend, loader);
    case ModelFamily::kMamba2:
      return LoadMamba2Layers(config, limits, backend, loader);
    case ModelFamily::kH3:
    case ModelFamily::kS4d:
    case ModelFamily::kAttention:
      return LoadMixerStack(config, limits, backend, loader);
  }
  return absl::InternalError("a family without a loader");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& folder,
                                                 Backend* backend,
                                                 const ModelLimits& limits,
                                                 int64_t known_ids) {
  ENGRAM_CHECK(limits.slots >= 1 && limits.max_batch_tokens >= 1 &&
               limits.max_logits_rows >= 1);
  ENGRAM_CHECK(known_ids >= 0);
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint,
                          Checkpoint::Open(folder));
  std::vector<std::string> warnings;
  ENGRAM_ASSIGN_OR_RETURN(checkpoint,
                          WithUsualNames(std::move(checkpoint), &warnings));
  ENGRAM_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  if (known_ids > config.vocab) {
    return absl::DataLossError(
        absl::StrCat(folder, ": the tokenizer has ids up to ", known_ids - 1,
                     ", the model only ", config.vocab, " rows for them"));
  }
  WeightLoader loader(folder, checkpoint.get(), backend,
                      limits.weight_format);
  for (std::string& warning : warnings) loader.Warn(std::move(warning));
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<LayerStack> layers,
                          LoadLayers(config, limits, backend, &loader));
  return LoadLanguageModel(config, limits, known_ids, backend, &loader,
                           std::move(layers));
}

}  // namespace engram

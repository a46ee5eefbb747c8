#include "model/model.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/checkpoint.h"
#include "model/counting_backend.h"
#include "model/language_model.h"
#include "model/memory_plan.h"
#include "model/model_config.h"
#include "model/renamed_checkpoint.h"
#include "model/weight_loader.h"

namespace engram {
namespace {

// The files of a model folder, checked against each other as far as that goes
// without the tensors.
struct Files {
  std::unique_ptr<Checkpoint> checkpoint;
  ModelConfig config;
  std::vector<std::string> warnings;
};

absl::StatusOr<Files> OpenFiles(const std::string& folder) {
  Files files;
  ENGRAM_ASSIGN_OR_RETURN(files.checkpoint, Checkpoint::Open(folder));
  ENGRAM_ASSIGN_OR_RETURN(
      files.checkpoint,
      WithUsualNames(std::move(files.checkpoint), &files.warnings));
  ENGRAM_ASSIGN_OR_RETURN(files.config, LoadModelConfig(folder));
  return files;
}

void CheckLimits(const ModelLimits& limits) {
  ENGRAM_CHECK(limits.slots >= 1 && limits.max_batch_tokens >= 1 &&
               limits.max_logits_rows >= 1);
}

}  // namespace

size_t MemoryPlan::total() const {
  size_t sum = 0;
  for (const size_t part : {weights, states, key_values, buffers, logits}) {
    sum = AddSizes(sum, part);
  }
  return sum;
}

absl::StatusOr<MemoryPlan> PlanMemory(const std::string& folder,
                                      const ModelLimits& limits) {
  CheckLimits(limits);
  ENGRAM_ASSIGN_OR_RETURN(const Files files, OpenFiles(folder));
  size_t asked = 0;
  const std::unique_ptr<Backend> backend = MakeCountingBackend(&asked);
  WeightLoader loader(folder, files.checkpoint.get(), backend.get(),
                      limits.weight_format);
  loader.SkipValues();
  ENGRAM_ASSIGN_OR_RETURN(
      MemoryPlan plan,
      PlanLanguageModel(files.config, limits, backend.get(), &loader));
  const size_t device_logits =
      MultiplySizes(files.config.vocab, limits.max_logits_rows * sizeof(float));
  size_t known = device_logits;
  for (const size_t part : {plan.weights, plan.states, plan.key_values}) {
    known = AddSizes(known, part);
  }
  plan.buffers = asked > known ? asked - known : 0;
  return plan;
}

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& folder,
                                                 Backend* backend,
                                                 const ModelLimits& limits,
                                                 int64_t known_ids) {
  CheckLimits(limits);
  ENGRAM_CHECK(known_ids >= 0);
  ENGRAM_ASSIGN_OR_RETURN(Files files, OpenFiles(folder));
  const ModelConfig& config = files.config;
  if (known_ids > config.vocab) {
    return absl::DataLossError(
        absl::StrCat(folder, ": the tokenizer has ids up to ", known_ids - 1,
                     ", the model only ", config.vocab, " rows for them"));
  }
  WeightLoader loader(folder, files.checkpoint.get(), backend,
                      limits.weight_format);
  for (std::string& warning : files.warnings) loader.Warn(std::move(warning));
  return LoadLanguageModel(config, limits, known_ids, backend, &loader);
}

}  // namespace engram

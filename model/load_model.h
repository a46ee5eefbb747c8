// From a folder on disk to a model that runs, with its tokenizer and the tokens
// that end a text.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "model/memory_plan.h"
#include "model/model.h"
#include "model/model_config.h"
#include "model/tokenizer.h"
#include "model/weight_loader.h"

namespace engram {

struct LoadedModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;  // nullptr: the folder has none
  // Distinct, ascending.
  std::vector<int32_t> eos_token_ids;
  // What is odd about the folder and was passed over, one sentence each.
  std::vector<std::string> warnings;
};

// A model folder (config.json, safetensors, tokenizer.json if there is one) of
// whatever family it holds. Its files are open and understood as far as that
// goes without values; nothing is loaded yet.
//
// Thread-compatible.
class ModelFolder {
 public:
  // DATA_LOSS: a damaged file; UNIMPLEMENTED: an architecture or setting that
  // Engram does not have; NOT_FOUND: no such folder or file. The message names
  // file, field, found and expected.
  static absl::StatusOr<std::unique_ptr<ModelFolder>> Open(
      const std::string& path);

  // One that is on no disk: what a folder would hold. `name` is for messages.
  static std::unique_ptr<ModelFolder> Of(
      std::string name, ModelConfig config,
      std::unique_ptr<Checkpoint> checkpoint);

  // The format that its matrices are quantised in already (model_config.h).
  std::optional<WeightFormat> quantised() const { return config_.quantised; }
  // Under the names that models know them by.
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  // What Load() would make of each tensor that the model has, copies left out:
  // the format of a matrix, nothing for others. Errors are those of
  // LoadModel().
  absl::StatusOr<std::map<std::string, std::optional<WeightFormat>>>
  TensorFormats(const Backend& backend, const ModelLimits& limits) const;

  // What Load() takes of `backend` with these limits: the same code runs with a
  // back end that takes nothing and counts. Errors are those of LoadModel(),
  // which may still find more: whether values are finite is not looked at.
  absl::StatusOr<MemoryPlan> Plan(const Backend& backend,
                                  const ModelLimits& limits) const;

  // `backend` must outlive the model. Errors: those of Tokenizer::Load and
  // LoadModel().
  absl::StatusOr<LoadedModel> Load(Backend* backend,
                                   const ModelLimits& limits) const;

  // The model alone. `known_ids`: the ids that the tokenizer can produce are
  // [0, known_ids); ids at or above it are never drawn, and have no
  // probability; 0: all ids are known. DATA_LOSS: a tensor that is missing, has
  // another shape or is not finite, one that is not understood, or fewer ids
  // than are known; UNIMPLEMENTED: a variant of a tensor that Engram does not
  // have. The message names file, tensor, found and expected.
  // RESOURCE_EXHAUSTED: memory is short. FAILED_PRECONDITION: another format is
  // asked for than the one that the weights are quantised in, or one that the
  // back end does not have.
  absl::StatusOr<std::unique_ptr<Model>> LoadModel(Backend* backend,
                                                   const ModelLimits& limits,
                                                   int64_t known_ids) const;

 private:
  explicit ModelFolder(std::string path) : path_(std::move(path)) {}

  // Before a tensor is looked at.
  absl::StatusOr<MatrixFormat> FormatFor(const Backend& backend,
                                         const ModelLimits& limits) const;

  const std::string path_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig config_;
};

// The model alone of a folder that is opened for it.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& folder,
                                                 Backend* backend,
                                                 const ModelLimits& limits,
                                                 int64_t known_ids);

}  // namespace engram

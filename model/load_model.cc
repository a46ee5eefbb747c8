#include "model/load_model.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/counting_backend.h"
#include "model/language_model.h"
#include "model/renamed_checkpoint.h"
#include "model/weight_loader.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

bool Exists(const std::string& folder, const char* name) {
  std::error_code error;
  return fs::exists(fs::path(folder) / name, error);
}

// tokenizer.json is optional: without it a model is served for token ids.
absl::Status LoadTokenizer(const std::string& folder, LoadedModel* loaded) {
  if (Exists(folder, "tokenizer.json")) {
    ENGRAM_ASSIGN_OR_RETURN(
        loaded->tokenizer,
        Tokenizer::Load(fs::path(folder) / "tokenizer.json"));
    loaded->warnings = loaded->tokenizer->warnings();
    return absl::OkStatus();
  }
  for (const char* other :
       {"vocab.json", "tokenizer.model", "tokenizer_config.json"}) {
    if (!Exists(folder, other)) continue;
    loaded->warnings.push_back(absl::StrCat(
        "there is ", other, " but no tokenizer.json, so that the model is ",
        "served for token ids only; Python's AutoTokenizer.from_pretrained(",
        "FOLDER).save_pretrained(FOLDER) makes it"));
    break;
  }
  return absl::OkStatus();
}

// The original layout's config.json does not tell; its tokenizers all have this
// token.
std::vector<int32_t> FindEndOfText(const Tokenizer* tokenizer) {
  const int32_t id =
      tokenizer == nullptr ? -1 : tokenizer->TokenToId("<|endoftext|>");
  if (id < 0 || !tokenizer->IsSpecial(id)) return {};
  return {id};
}

void CheckLimits(const ModelLimits& limits) {
  ENGRAM_CHECK(limits.slots >= 1 && limits.max_batch_tokens >= 1 &&
               limits.max_logits_rows >= 1);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelFolder>> ModelFolder::Open(
    const std::string& path) {
  std::unique_ptr<ModelFolder> folder(new ModelFolder(path));
  ENGRAM_ASSIGN_OR_RETURN(folder->config_, LoadModelConfig(path));
  ENGRAM_ASSIGN_OR_RETURN(folder->checkpoint_, Checkpoint::Open(path));
  ENGRAM_ASSIGN_OR_RETURN(folder->checkpoint_,
                          WithUsualNames(std::move(folder->checkpoint_),
                                         &folder->config_.warnings));
  return folder;
}

std::unique_ptr<ModelFolder> ModelFolder::Of(
    std::string name, ModelConfig config,
    std::unique_ptr<Checkpoint> checkpoint) {
  std::unique_ptr<ModelFolder> folder(new ModelFolder(std::move(name)));
  folder->config_ = std::move(config);
  folder->checkpoint_ = std::move(checkpoint);
  return folder;
}

absl::StatusOr<MatrixFormat> ModelFolder::FormatFor(
    const Backend& backend, const ModelLimits& limits) const {
  const std::optional<WeightFormat>& quantised = config_.quantised;
  const std::optional<WeightFormat> wanted =
      limits.weight_format.has_value() ? limits.weight_format : quantised;
  if (quantised.has_value() && wanted != quantised) {
    return absl::FailedPreconditionError(absl::StrCat(
        path_, ": the weights are quantised to ", WeightFormatName(*quantised),
        " already (config.json, quantization_config), and ",
        WeightFormatName(*wanted), " is asked for; ask for none, or load the ",
        "folder that they were made of"));
  }
  if (wanted.has_value()) ENGRAM_RETURN_IF_ERROR(backend.CheckFormat(*wanted));
  return MatrixFormat{wanted, quantised.has_value()};
}

absl::StatusOr<std::map<std::string, std::optional<WeightFormat>>>
ModelFolder::TensorFormats(const Backend& backend,
                           const ModelLimits& limits) const {
  ENGRAM_ASSIGN_OR_RETURN(const MatrixFormat format,
                          FormatFor(backend, limits));
  CountedMemory counted;
  const std::unique_ptr<Backend> counting =
      MakeCountingBackend(&backend, &counted);
  WeightLoader loader(path_, checkpoint_.get(), counting.get(), format);
  ENGRAM_RETURN_IF_ERROR(
      PlanLanguageModel(config_, limits, counting.get(), &loader).status());
  return loader.formats_by_name();
}

absl::StatusOr<MemoryPlan> ModelFolder::Plan(const Backend& backend,
                                             const ModelLimits& limits) const {
  CheckLimits(limits);
  ENGRAM_ASSIGN_OR_RETURN(const MatrixFormat format,
                          FormatFor(backend, limits));
  CountedMemory counted;
  const std::unique_ptr<Backend> counting =
      MakeCountingBackend(&backend, &counted);
  WeightLoader loader(path_, checkpoint_.get(), counting.get(), format);
  loader.SkipValues();
  ENGRAM_ASSIGN_OR_RETURN(
      MemoryPlan plan,
      PlanLanguageModel(config_, limits, counting.get(), &loader));
  plan.loading = counted.most;
  plan.pinned = counted.pinned;
  return plan;
}

absl::StatusOr<std::unique_ptr<Model>> ModelFolder::LoadModel(
    Backend* backend, const ModelLimits& limits, int64_t known_ids) const {
  CheckLimits(limits);
  ENGRAM_CHECK(known_ids >= 0);
  ENGRAM_ASSIGN_OR_RETURN(const MatrixFormat format,
                          FormatFor(*backend, limits));
  if (known_ids > config_.vocab) {
    return absl::DataLossError(
        absl::StrCat(path_, ": the tokenizer has ids up to ", known_ids - 1,
                     ", the model only ", config_.vocab, " rows for them"));
  }
  WeightLoader loader(path_, checkpoint_.get(), backend, format);
  return LoadLanguageModel(config_, limits, known_ids, backend, &loader);
}

absl::StatusOr<LoadedModel> ModelFolder::Load(Backend* backend,
                                              const ModelLimits& limits) const {
  LoadedModel loaded;
  ENGRAM_RETURN_IF_ERROR(LoadTokenizer(path_, &loaded));
  const Tokenizer* const tokenizer = loaded.tokenizer.get();
  loaded.eos_token_ids = config_.eos_token_ids.empty()
                             ? FindEndOfText(tokenizer)
                             : config_.eos_token_ids;
  ENGRAM_ASSIGN_OR_RETURN(
      loaded.model,
      LoadModel(backend, limits, tokenizer == nullptr ? 0 : tokenizer->ids()));
  const std::vector<std::string>& more = loaded.model->info().warnings;
  loaded.warnings.insert(loaded.warnings.end(), more.begin(), more.end());
  return loaded;
}

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& folder,
                                                 Backend* backend,
                                                 const ModelLimits& limits,
                                                 int64_t known_ids) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<ModelFolder> opened,
                          ModelFolder::Open(folder));
  return opened->LoadModel(backend, limits, known_ids);
}

}  // namespace engram

#include "server/model_loading.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "model/model_config.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

bool Exists(const std::string& folder, const char* name) {
  std::error_code error;
  return fs::exists(fs::path(folder) / name, error);
}

// tokenizer.json is optional: without it a model is served for token ids.
absl::Status LoadTokenizer(const std::string& folder, ServedModel* served) {
  if (Exists(folder, "tokenizer.json")) {
    ENGRAM_ASSIGN_OR_RETURN(
        served->tokenizer,
        Tokenizer::Load(fs::path(folder) / "tokenizer.json"));
    served->warnings = served->tokenizer->warnings();
    return absl::OkStatus();
  }
  for (const char* other :
       {"vocab.json", "tokenizer.model", "tokenizer_config.json"}) {
    if (!Exists(folder, other)) continue;
    served->warnings.push_back(absl::StrCat(
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

ModelLimits LimitsOf(const ServerOptions& options) {
  ModelLimits limits;
  limits.slots = static_cast<int>(options.slots);
  limits.max_batch_tokens = static_cast<int>(options.max_batch_tokens);
  limits.max_logits_rows = static_cast<int>(
      std::min(options.slots + 64, options.max_batch_tokens + 1));
  limits.kv_bytes = static_cast<size_t>(options.kv_memory);
  limits.weight_format = options.weights;
  return limits;
}

absl::StatusOr<std::unique_ptr<ServedModel>> Load(const std::string& name,
                                                  const std::string& folder,
                                                  const ServerOptions& options,
                                                  MemoryPlan* plan) {
  auto served = std::make_unique<ServedModel>();
  served->name = name;
  const ModelLimits limits = LimitsOf(options);
  // The files first: what is wrong with them matters more than their size.
  ENGRAM_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  ENGRAM_ASSIGN_OR_RETURN(*plan, PlanMemory(folder, limits));
  ENGRAM_RETURN_IF_ERROR(CheckRoom(*plan, limits, FindMemoryRoom()));
  served->memory = *plan;
  BackendOptions backend;
  backend.kind = options.backend;
  backend.threads = static_cast<int>(options.threads);
  ENGRAM_ASSIGN_OR_RETURN(served->backend, MakeBackend(backend));
  ENGRAM_RETURN_IF_ERROR(LoadTokenizer(folder, served.get()));
  const Tokenizer* const tokenizer = served->tokenizer.get();
  served->eos_token_ids = config.eos_token_ids.empty()
                              ? FindEndOfText(tokenizer)
                              : config.eos_token_ids;
  ENGRAM_ASSIGN_OR_RETURN(
      served->model, LoadModel(folder, served->backend.get(), limits,
                               tokenizer == nullptr ? 0 : tokenizer->ids()));
  const std::vector<std::string>& more = served->model->info().warnings;
  served->warnings.insert(served->warnings.end(), more.begin(), more.end());
  return served;
}

}  // namespace

std::string DescribeMemory(const MemoryPlan& plan, const ModelLimits& limits) {
  std::string text = absl::StrCat(
      plan.total(), " bytes: ", plan.weights, " of weights (--weights), ",
      plan.states, " of states in ", limits.slots, " slots (--slots), ",
      plan.buffers, " of buffers for steps of ", limits.max_batch_tokens,
      " tokens (--max-batch-tokens), ", plan.logits, " of logits in ",
      limits.max_logits_rows, " rows (--slots, --max-batch-tokens)");
  if (plan.key_values > 0) {
    absl::StrAppend(&text, ", ", plan.key_values,
                    " of keys and values (--kv-memory)");
  }
  return text;
}

absl::Status CheckRoom(const MemoryPlan& plan, const ModelLimits& limits,
                       const MemoryRoom& room) {
  if (plan.total() <= room.bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the model takes ", DescribeMemory(plan, limits), "; ",
                   room.limit, " leaves ", room.bytes));
}

absl::StatusOr<std::unique_ptr<ServedModel>> LoadServedModel(
    const std::string& name, const std::string& folder,
    const ServerOptions& options) {
  MemoryPlan plan;
  try {
    return Load(name, folder, options, &plan);
  } catch (const std::bad_alloc&) {
    // Thrown by the standard library: there is room by the limits, but it is
    // taken by others or in pieces.
    const MemoryRoom room = FindMemoryRoom();
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for what the model takes, ",
                     DescribeMemory(plan, LimitsOf(options)), "; ", room.limit,
                     " leaves ", room.bytes));
  }
}

}  // namespace engram

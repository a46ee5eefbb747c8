#include "model/model.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/checkpoint.h"
#include "model/mamba.h"
#include "model/model_config.h"

namespace engram {

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& folder,
                                                 Backend* backend,
                                                 const ModelLimits& limits,
                                                 int64_t known_ids) {
  ENGRAM_CHECK(limits.slots >= 1 && limits.max_batch_tokens >= 1 &&
               limits.max_logits_rows >= 1);
  ENGRAM_CHECK(known_ids >= 0);
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                          Checkpoint::Open(folder));
  ENGRAM_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  if (known_ids > config.vocab) {
    return absl::DataLossError(
        absl::StrCat(folder, ": the tokenizer has ids up to ", known_ids - 1,
                     ", the model only ", config.vocab, " rows for them"));
  }
  switch (config.family) {
    case ModelFamily::kMamba:
      return LoadMamba(folder, config, *checkpoint, backend, limits, known_ids);
  }
  return absl::InternalError("a family without a loader");
}

}  // namespace engram

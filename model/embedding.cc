#include "model/embedding.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

constexpr char kHead[] = "lm_head.weight";

// The head if it is a matrix of its own beside that of `embedding_name`; else
// nullptr. A file may hold two that differ although the configuration says that
// they are one: then it was trained with two.
absl::StatusOr<std::unique_ptr<PackedWeight>> LoadOwnHead(
    const ModelConfig& config, const std::string& embedding_name,
    WeightLoader* loader) {
  if (config.tied) {
    if (!loader->checkpoint().Has(kHead)) return nullptr;
    ENGRAM_ASSIGN_OR_RETURN(
        const bool is_copy,
        loader->IsCopy(kHead, embedding_name, config.vocab, config.d_model));
    if (is_copy) return nullptr;
    loader->Warn(
        "config.json says that the head is the embedding matrix "
        "(tie_word_embeddings or tie_embeddings), but lm_head.weight has other "
        "values; both are used, as the file has them");
  } else if (!loader->checkpoint().Has(kHead)) {
    return absl::DataLossError(absl::StrCat(
        loader->folder(),
        ": tensor lm_head.weight is missing, and config.json "
        "does not say that it is the embedding matrix; if it is, set "
        "tie_word_embeddings (or tie_embeddings) to true there"));
  }
  return loader->VocabularyMatrix(kHead, config.vocab, config.d_model);
}

}  // namespace

absl::StatusOr<Embedding> LoadEmbedding(const ModelConfig& config,
                                        WeightLoader* loader) {
  Embedding embedding;
  // Since the format knows no shared tensors, a converter may have dropped
  // either the embedding or the head of a tied model.
  std::vector<std::string> names = config.names.embeddings;
  const std::string* const name = loader->FirstOf(config.names.embeddings);
  if (name == nullptr && config.tied) names.push_back(kHead);
  ENGRAM_ASSIGN_OR_RETURN(
      embedding.tokens,
      loader->SharedMatrix(names, config.vocab, config.d_model));
  if (name != nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(embedding.own_head,
                            LoadOwnHead(config, *name, loader));
  }
  if (config.positions > 0) {
    ENGRAM_ASSIGN_OR_RETURN(
        embedding.positions,
        loader->Vector("backbone.embeddings.position_embeddings.weight",
                       {config.positions, config.d_model}));
  }
  return embedding;
}

}  // namespace engram

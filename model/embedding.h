// Embedding: the matrices of a model that have a row for each token id, and
// those of learned positions.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/model_config.h"
#include "model/weight_loader.h"

namespace engram {

struct Embedding {
  std::unique_ptr<PackedWeight> tokens;    // [vocab, d_model]
  std::unique_ptr<PackedWeight> own_head;  // the same, nullptr if tied
  std::unique_ptr<Buffer> positions;       // [positions, d_model] or nullptr

  const PackedWeight& head() const {
    return own_head == nullptr ? *tokens : *own_head;
  }
};

// Errors as for LoadModel().
absl::StatusOr<Embedding> LoadEmbedding(const ModelConfig& config,
                                        WeightLoader* loader);

}  // namespace engram

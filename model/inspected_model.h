// What looks into a model needs of it, and what all looks compute in one way:
// the embedding of a few tokens and the head of a few vectors.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/outcomes.h"
#include "model/block_stack.h"
#include "model/embedding.h"
#include "model/host_products.h"
#include "model/state_pool.h"

namespace engram {

// Parts of a model, all of which outlive its inspections.
struct InspectedModel {
  const BlockStack* layers = nullptr;
  const Embedding* embedding = nullptr;
  NormWeights final_norm;
  // Whose last component is the normed hidden vector of the last token.
  const StatePool* states = nullptr;
  int64_t d_model = 0;
  int64_t known_ids = 0;
  int64_t max_positions = 0;  // 0: no limit

  // INTERNAL: the device failed. REQUIRES of both: rows within
  // HostProducts::rows().

  // What tokens at these positions begin with.
  //   residual  [ids, d_model] out
  absl::Status Embed(absl::Span<const int32_t> ids,
                     absl::Span<const int64_t> positions,
                     HostProducts* products, float* residual) const;
  // Logits of vectors that went through the final norm.
  //   hidden   [rows, d_model]
  //   returns  [rows, outputs of the head]
  absl::StatusOr<std::vector<float>> Logits(const std::vector<float>& hidden,
                                            int64_t rows,
                                            HostProducts* products) const;

  // The `count` likeliest ids of these, as Outcome::top has them.
  std::vector<LogProbability> Likeliest(const float* logits,
                                        int64_t count) const;
};

}  // namespace engram

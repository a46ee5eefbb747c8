#include "model/inspected_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/status.h"

namespace engram {

absl::Status InspectedModel::Embed(absl::Span<const int32_t> ids,
                                   absl::Span<const int64_t> positions,
                                   HostProducts* products,
                                   float* residual) const {
  ENGRAM_RETURN_IF_ERROR(products->Embed(*embedding->tokens, ids, residual));
  if (embedding->positions == nullptr) return absl::OkStatus();
  for (size_t i = 0; i < ids.size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(
        const std::vector<float> learned,
        products->Read(embedding->positions->floats() + positions[i] * d_model,
                       d_model));
    for (int64_t j = 0; j < d_model; ++j)
      residual[i * d_model + j] += learned[j];
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> InspectedModel::Logits(
    const std::vector<float>& hidden, int64_t rows,
    HostProducts* products) const {
  const PackedWeight& head = embedding->head();
  std::vector<float> logits(rows * head.outputs());
  ENGRAM_RETURN_IF_ERROR(
      products->Multiply(head, rows, hidden.data(), d_model, logits.data()));
  return logits;
}

std::vector<LogProbability> InspectedModel::Likeliest(const float* logits,
                                                      int64_t count) const {
  double largest = -std::numeric_limits<double>::infinity();
  std::vector<int32_t> order;
  for (int64_t id = 0; id < known_ids; ++id) {
    if (!std::isfinite(logits[id])) continue;
    largest = std::max<double>(largest, logits[id]);
    order.push_back(static_cast<int32_t>(id));
  }
  double sum = 0;
  for (const int32_t id : order) sum += std::exp(logits[id] - largest);
  const auto end = order.begin() +
                   std::min<int64_t>(count, static_cast<int64_t>(order.size()));
  std::partial_sort(
      order.begin(), end, order.end(), [logits](int32_t left, int32_t right) {
        return logits[left] != logits[right] ? logits[left] > logits[right]
                                             : left < right;
      });
  std::vector<LogProbability> top;
  for (auto id = order.begin(); id != end; ++id) {
    top.push_back(
        {*id, static_cast<float>(logits[*id] - largest - std::log(sum))});
  }
  return top;
}

}  // namespace engram

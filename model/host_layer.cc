#include "model/host_layer.h"

#include <vector>

#include "kernels/status.h"

namespace engram {

absl::StatusOr<HostLayer> HostLayer::Open(const InspectedModel& model,
                                          const void* state, int64_t position,
                                          int64_t layer,
                                          HostProducts* products) {
  ENGRAM_ASSIGN_OR_RETURN(
      BlockStack::ProbedLayer probed,
      model.layers->Probe(layer, *model.states, state, position, products));
  HostLayer opened(std::move(probed), products);
  ENGRAM_ASSIGN_OR_RETURN(
      opened.norm_,
      HostNorm::Read(opened.probed_.norm, model.d_model, *products));
  if (opened.probed_.mlp.has_value()) {
    ENGRAM_ASSIGN_OR_RETURN(
        opened.mlp_norm_,
        HostNorm::Read(opened.probed_.mlp->norm, model.d_model, *products));
  }
  return opened;
}

absl::StatusOr<ProbedOutputs> HostLayer::Feed(ProbedRows rows,
                                              float* residual) {
  const auto d_model = static_cast<int64_t>(norm_.weight.size());
  std::vector<float> normed(rows.rows * d_model);
  for (int64_t row = 0; row < rows.rows; ++row) {
    norm_.Apply(residual + row * d_model, &normed[row * d_model]);
  }
  rows.normed = normed.data();
  ENGRAM_ASSIGN_OR_RETURN(ProbedOutputs outputs, probed_.probe->Feed(rows));
  for (int64_t i = 0; i < rows.rows * d_model; ++i) {
    residual[i] += outputs.all[i];
  }
  if (probed_.mlp.has_value()) {
    ENGRAM_RETURN_IF_ERROR(AddMlp(rows.rows, residual));
  }
  return outputs;
}

absl::Status HostLayer::AddMlp(int64_t rows, float* residual) {
  const MlpBlockArguments& mlp = *probed_.mlp;
  const auto d_model = static_cast<int64_t>(norm_.weight.size());
  const int64_t width = mlp.width();
  std::vector<float> normed(rows * d_model);
  for (int64_t row = 0; row < rows; ++row) {
    mlp_norm_->Apply(residual + row * d_model, &normed[row * d_model]);
  }
  const int64_t hidden_width = mlp.fc1.weight->outputs();
  std::vector<float> hidden(rows * hidden_width);
  ENGRAM_RETURN_IF_ERROR(products_->Multiply(mlp.fc1, rows, normed.data(),
                                             d_model, hidden.data()));
  for (int64_t row = 0; row < rows; ++row) {
    float* const own = &hidden[row * hidden_width];
    for (int64_t i = 0; i < width; ++i) {
      own[i] = static_cast<float>(mlp.gated ? own[i] * Silu(own[width + i])
                                            : GeluTanh(own[i]));
    }
  }
  std::vector<float> added(rows * d_model);
  ENGRAM_RETURN_IF_ERROR(products_->Multiply(mlp.fc2, rows, hidden.data(),
                                             hidden_width, added.data()));
  for (int64_t i = 0; i < rows * d_model; ++i) residual[i] += added[i];
  return absl::OkStatus();
}

}  // namespace engram

#include "model/mamba.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/weight_loader.h"

namespace engram {
namespace {

constexpr int64_t kConvolutionMin = 2;
constexpr int64_t kConvolutionMax = 256;

// Components of the state, by their index in the pool.
enum Component { kConvState, kSsmState, kLastHidden };

struct Dimensions {
  int64_t layers = 0;
  int64_t d_model = 0;
  int64_t vocab = 0;
  int64_t d_inner = 0;
  int64_t d_state = 0;
  int64_t d_conv = 0;
  int64_t dt_rank = 0;

  // Outputs of x_proj: dt, B and C side by side.
  int64_t scan_inputs() const { return dt_rank + 2 * d_state; }
};

struct Layer {
  std::unique_ptr<Buffer> norm;            // [d_model]
  std::unique_ptr<PackedWeight> in_proj;   // [2 d_inner, d_model], x then z
  std::unique_ptr<Buffer> in_proj_bias;    // [2 d_inner] or nullptr
  std::unique_ptr<Buffer> conv_weight;     // [d_conv, d_inner]
  std::unique_ptr<Buffer> conv_bias;       // [d_inner] or nullptr
  std::unique_ptr<PackedWeight> x_proj;    // [dt_rank + 2 d_state, d_inner]
  std::unique_ptr<PackedWeight> dt_proj;   // [d_inner, dt_rank]
  std::unique_ptr<Buffer> dt_bias;         // [d_inner]
  std::unique_ptr<Buffer> a;               // [d_state, d_inner]
  std::unique_ptr<Buffer> d;               // [d_inner]
  std::unique_ptr<PackedWeight> out_proj;  // [d_model, d_inner]
  std::unique_ptr<Buffer> out_proj_bias;   // [d_model] or nullptr
};

struct Weights {
  std::unique_ptr<PackedWeight> embedding;  // [vocab, d_model]
  std::unique_ptr<PackedWeight> own_head;   // the same, nullptr if tied
  std::vector<Layer> layers;
  std::unique_ptr<Buffer> final_norm;  // [d_model]

  const PackedWeight& head() const {
    return own_head == nullptr ? *embedding : *own_head;
  }
};

// Activations of one step, for the most tokens and logits it can have.
struct WorkBuffers {
  std::unique_ptr<Buffer> residual;     // [tokens, d_model]
  std::unique_ptr<Buffer> normed;       // [tokens, d_model]
  std::unique_ptr<Buffer> projected;    // [tokens, 2 d_inner], x then z
  std::unique_ptr<Buffer> convolved;    // [tokens, d_inner], then the scan's y
  std::unique_ptr<Buffer> scan_inputs;  // [tokens, dt_rank + 2 d_state]
  std::unique_ptr<Buffer> dt;           // [tokens, d_inner]
  std::unique_ptr<Buffer> head_input;   // [logits rows, d_model]
  std::unique_ptr<Buffer> logits;       // [logits rows, vocab]
};

const float* FloatsOrNull(const std::unique_ptr<Buffer>& buffer) {
  return buffer == nullptr ? nullptr : buffer->floats();
}

// [rows, columns] to [columns, rows].
std::vector<float> Transposed(const std::vector<float>& matrix, int64_t rows,
                              int64_t columns) {
  std::vector<float> result(matrix.size());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      result[column * rows + row] = matrix[row * columns + column];
    }
  }
  return result;
}

std::string LayerName(int64_t layer, const char* tensor) {
  return absl::StrCat("backbone.layers.", layer, ".", tensor);
}

// The widths of the mixer come from the tensors of layer 0, because configs in
// the wild are wrong about them; every other tensor must then agree.
absl::StatusOr<Dimensions> ReadDimensions(const std::string& folder,
                                          const ModelConfig& config,
                                          const WeightLoader& loader) {
  Dimensions dimensions;
  dimensions.layers = config.layers;
  dimensions.d_model = config.d_model;
  dimensions.vocab = config.vocab;
  ENGRAM_ASSIGN_OR_RETURN(const auto a_log,
                          loader.Shape(LayerName(0, "mixer.A_log"), 2));
  ENGRAM_ASSIGN_OR_RETURN(const auto conv,
                          loader.Shape(LayerName(0, "mixer.conv1d.weight"), 3));
  ENGRAM_ASSIGN_OR_RETURN(
      const auto dt_proj,
      loader.Shape(LayerName(0, "mixer.dt_proj.weight"), 2));
  dimensions.d_inner = a_log[0];
  dimensions.d_state = a_log[1];
  dimensions.d_conv = conv[2];
  dimensions.dt_rank = dt_proj[1];
  if (dimensions.d_conv < kConvolutionMin ||
      dimensions.d_conv > kConvolutionMax) {
    return absl::DataLossError(
        absl::StrCat(folder, ": tensor ", LayerName(0, "mixer.conv1d.weight"),
                     " has ", dimensions.d_conv, " taps, expected ",
                     kConvolutionMin, " to ", kConvolutionMax));
  }
  return dimensions;
}

absl::StatusOr<Layer> LoadLayer(int64_t index, const Dimensions& dimensions,
                                const ModelConfig& config,
                                WeightLoader* loader) {
  const auto [layers, d_model, vocab, d_inner, d_state, d_conv, dt_rank] =
      dimensions;
  const auto name = [index](const char* tensor) {
    return LayerName(index, tensor);
  };
  Layer layer;
  ENGRAM_ASSIGN_OR_RETURN(layer.norm,
                          loader->Vector(name("norm.weight"), {d_model}));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.in_proj,
      loader->Matrix(name("mixer.in_proj.weight"), 2 * d_inner, d_model));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.in_proj_bias,
      loader->OptionalVector(name("mixer.in_proj.bias"), {2 * d_inner},
                             config.projection_bias));
  ENGRAM_ASSIGN_OR_RETURN(
      const std::vector<float> conv_weight,
      loader->Values(name("mixer.conv1d.weight"), {d_inner, 1, d_conv}));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.conv_weight,
      loader->Upload(Transposed(conv_weight, d_inner, d_conv)));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.conv_bias,
      loader->OptionalVector(name("mixer.conv1d.bias"), {d_inner},
                             config.convolution_bias));
  ENGRAM_ASSIGN_OR_RETURN(layer.x_proj,
                          loader->Matrix(name("mixer.x_proj.weight"),
                                         dimensions.scan_inputs(), d_inner));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.dt_proj,
      loader->Matrix(name("mixer.dt_proj.weight"), d_inner, dt_rank));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.dt_bias, loader->Vector(name("mixer.dt_proj.bias"), {d_inner}));
  ENGRAM_ASSIGN_OR_RETURN(
      std::vector<float> a,
      loader->Values(name("mixer.A_log"), {d_inner, d_state}));
  // After widening: exp of a 16-bit A_log in 16 bits could be infinite.
  for (float& value : a) value = -std::exp(value);
  ENGRAM_ASSIGN_OR_RETURN(layer.a,
                          loader->Upload(Transposed(a, d_inner, d_state)));
  ENGRAM_ASSIGN_OR_RETURN(layer.d, loader->Vector(name("mixer.D"), {d_inner}));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.out_proj,
      loader->Matrix(name("mixer.out_proj.weight"), d_model, d_inner));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.out_proj_bias,
      loader->OptionalVector(name("mixer.out_proj.bias"), {d_model},
                             config.projection_bias));
  return layer;
}

absl::StatusOr<Weights> LoadWeights(const Dimensions& dimensions,
                                    const ModelConfig& config,
                                    WeightLoader* loader) {
  Weights weights;
  // The original layout has the singular, Hugging Face's the plural; and since
  // the format knows no shared tensors, a converter may have dropped either the
  // embedding or the head of a tied model.
  std::vector<std::string> embedding_names = {"backbone.embeddings.weight",
                                              "backbone.embedding.weight"};
  if (config.tied) embedding_names.push_back("lm_head.weight");
  ENGRAM_ASSIGN_OR_RETURN(
      weights.embedding, loader->SharedMatrix(embedding_names, dimensions.vocab,
                                              dimensions.d_model));
  if (!config.tied) {
    ENGRAM_ASSIGN_OR_RETURN(
        weights.own_head,
        loader->Matrix("lm_head.weight", dimensions.vocab, dimensions.d_model));
  }
  ENGRAM_ASSIGN_OR_RETURN(
      weights.final_norm,
      loader->Vector("backbone.norm_f.weight", {dimensions.d_model}));
  for (int64_t i = 0; i < dimensions.layers; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(Layer layer,
                            LoadLayer(i, dimensions, config, loader));
    weights.layers.push_back(std::move(layer));
  }
  ENGRAM_RETURN_IF_ERROR(loader->CheckAllUsed({"backbone.", "lm_head."}));
  return weights;
}

absl::StatusOr<WorkBuffers> AllocateWorkBuffers(const Dimensions& dimensions,
                                                const ModelLimits& limits,
                                                Backend* backend) {
  const auto allocate = [backend](int64_t rows, int64_t width) {
    return backend->Allocate(rows * width * sizeof(float));
  };
  const int64_t tokens = limits.max_batch_tokens;
  const int64_t logits_rows = limits.max_logits_rows;
  WorkBuffers work;
  ENGRAM_ASSIGN_OR_RETURN(work.residual, allocate(tokens, dimensions.d_model));
  ENGRAM_ASSIGN_OR_RETURN(work.normed, allocate(tokens, dimensions.d_model));
  ENGRAM_ASSIGN_OR_RETURN(work.projected,
                          allocate(tokens, 2 * dimensions.d_inner));
  ENGRAM_ASSIGN_OR_RETURN(work.convolved, allocate(tokens, dimensions.d_inner));
  ENGRAM_ASSIGN_OR_RETURN(work.scan_inputs,
                          allocate(tokens, dimensions.scan_inputs()));
  ENGRAM_ASSIGN_OR_RETURN(work.dt, allocate(tokens, dimensions.d_inner));
  ENGRAM_ASSIGN_OR_RETURN(work.head_input,
                          allocate(logits_rows, dimensions.d_model));
  ENGRAM_ASSIGN_OR_RETURN(work.logits, allocate(logits_rows, dimensions.vocab));
  return work;
}

std::vector<StateComponent> StateComponents(const Dimensions& dimensions) {
  return {
      {"conv_state",
       dimensions.layers,
       {dimensions.d_conv - 1, dimensions.d_inner}},
      {"ssm_state",
       dimensions.layers,
       {dimensions.d_state, dimensions.d_inner}},
      // The normed hidden vector of the last token fed: the logits that follow
      // a restored state can be made from it without feeding a token.
      {"last_hidden", 1, {dimensions.d_model}},
  };
}

class Mamba final : public Model {
 public:
  Mamba(Backend* backend, ModelInfo info, const ModelLimits& limits,
        const Dimensions& dimensions, float norm_epsilon, int64_t known_ids,
        Weights weights, WorkBuffers work, std::unique_ptr<StatePool> states);

  const ModelInfo& info() const override { return info_; }
  const ModelLimits& limits() const override { return limits_; }
  StatePool& states() override { return *states_; }
  absl::StatusOr<StepResult> Step(const Batch& batch) override;

 private:
  // Checks the batch and lays its rows and ids out one after another.
  void LayOut(const Batch& batch);
  NormWeights Norm(const Buffer& weight) const;
  void RunLayer(int64_t index);
  // Collects the hidden vectors that logits are wanted for, and then leaves
  // each row's last one in its slot: the order is what makes logits_before
  // those of before.
  void GatherHeadInput(const Batch& batch);
  void SaveLastHidden();
  std::vector<bool> FiniteRows(const Batch& batch);
  void CheckVectorsFromBefore(const Batch& batch, std::vector<bool>* finite);
  void CopyLogitsToHost();

  Backend* const backend_;
  const ModelInfo info_;
  const ModelLimits limits_;
  const Dimensions dimensions_;
  const float norm_epsilon_;
  const int64_t known_ids_;
  const Weights weights_;
  const WorkBuffers work_;
  const std::unique_ptr<StatePool> states_;

  // Of the current step, in host memory.
  std::vector<Row> rows_;
  std::vector<int32_t> ids_;           // of all rows
  std::vector<int32_t> head_sources_;  // the token that each logits row is of
  std::vector<uint8_t> finite_;
  std::vector<bool> slot_in_use_;
  std::vector<float> logits_;
  int64_t logits_rows_ = 0;
};

Mamba::Mamba(Backend* backend, ModelInfo info, const ModelLimits& limits,
             const Dimensions& dimensions, float norm_epsilon,
             int64_t known_ids, Weights weights, WorkBuffers work,
             std::unique_ptr<StatePool> states)
    : backend_(backend),
      info_(std::move(info)),
      limits_(limits),
      dimensions_(dimensions),
      norm_epsilon_(norm_epsilon),
      known_ids_(known_ids),
      weights_(std::move(weights)),
      work_(std::move(work)),
      states_(std::move(states)),
      slot_in_use_(limits.slots),
      logits_(limits.max_logits_rows * dimensions.vocab) {}

void Mamba::LayOut(const Batch& batch) {
  rows_.clear();
  ids_.clear();
  logits_rows_ = 0;
  std::fill(slot_in_use_.begin(), slot_in_use_.end(), false);
  for (const BatchRow& row : batch.rows) {
    ENGRAM_CHECK(states_->IsTaken(row.slot));
    ENGRAM_CHECK(!slot_in_use_[row.slot]);
    ENGRAM_CHECK(!row.tokens.empty());
    ENGRAM_CHECK(ids_.size() + row.tokens.size() <=
                 static_cast<size_t>(limits_.max_batch_tokens));
    slot_in_use_[row.slot] = true;
    rows_.push_back({row.slot, static_cast<int>(ids_.size()),
                     static_cast<int>(row.tokens.size())});
    for (int32_t id : row.tokens) {
      ENGRAM_CHECK(id >= 0 && id < dimensions_.vocab);
      ids_.push_back(id);
    }
    logits_rows_ += row.logits_rows();
  }
  ENGRAM_CHECK(logits_rows_ <= limits_.max_logits_rows);
}

NormWeights Mamba::Norm(const Buffer& weight) const {
  NormWeights norm;
  norm.weight = weight.floats();
  norm.epsilon = norm_epsilon_;
  return norm;
}

void Mamba::RunLayer(int64_t index) {
  const Layer& layer = weights_.layers[index];
  const auto tokens = static_cast<int64_t>(ids_.size());
  const int64_t d_model = dimensions_.d_model;
  const int64_t d_inner = dimensions_.d_inner;
  const Matrix normed = {work_.normed->floats(), d_model};
  const Matrix residual = {work_.residual->floats(), d_model};
  const Matrix projected = {work_.projected->floats(), 2 * d_inner};
  const Matrix convolved = {work_.convolved->floats(), d_inner};
  const Matrix scan_inputs = {work_.scan_inputs->floats(),
                              dimensions_.scan_inputs()};
  const Matrix dt = {work_.dt->floats(), d_inner};

  backend_->Norm(Norm(*layer.norm), tokens, d_model, residual.data,
                 normed.data);
  MatMulOptions in_options;
  in_options.bias = FloatsOrNull(layer.in_proj_bias);
  backend_->MatMul(*layer.in_proj, tokens, normed, in_options, projected);
  backend_->CausalConv1d(rows_, d_inner, dimensions_.d_conv, projected,
                         layer.conv_weight->floats(),
                         FloatsOrNull(layer.conv_bias),
                         states_->Layer(kConvState, index), convolved);
  backend_->MatMul(*layer.x_proj, tokens, convolved, {}, scan_inputs);
  backend_->MatMul(*layer.dt_proj, tokens, scan_inputs, {}, dt);

  SelectiveScanArguments scan;
  scan.d_inner = d_inner;
  scan.d_state = dimensions_.d_state;
  scan.x = convolved;
  scan.dt = dt;
  scan.b = {scan_inputs.data + dimensions_.dt_rank, scan_inputs.stride};
  scan.c = {scan.b.data + dimensions_.d_state, scan_inputs.stride};
  scan.z = {projected.data + d_inner, projected.stride};
  scan.dt_bias = layer.dt_bias->floats();
  scan.a = layer.a->floats();
  scan.d = layer.d->floats();
  scan.ssm_state = states_->Layer(kSsmState, index);
  scan.y = convolved;
  backend_->SelectiveScan(rows_, scan);

  MatMulOptions out_options;
  out_options.bias = FloatsOrNull(layer.out_proj_bias);
  out_options.accumulate = true;
  backend_->MatMul(*layer.out_proj, tokens, convolved, out_options, residual);
}

void Mamba::GatherHeadInput(const Batch& batch) {
  const int64_t d_model = dimensions_.d_model;
  head_sources_.clear();
  for (size_t i = 0; i < rows_.size(); ++i) {
    const BatchRow& row = batch.rows[i];
    const int32_t end = rows_[i].offset + rows_[i].tokens;
    // Any token holds the place of a vector that comes from the slot, below.
    if (row.logits_before) head_sources_.push_back(rows_[i].offset);
    if (row.logits == LogitsWanted::kLast) head_sources_.push_back(end - 1);
    if (row.logits != LogitsWanted::kAll) continue;
    for (int32_t token = rows_[i].offset; token < end; ++token) {
      head_sources_.push_back(token);
    }
  }
  backend_->Gather({work_.normed->floats(), d_model}, head_sources_, d_model,
                   {work_.head_input->floats(), d_model});
  int64_t first = 0;
  for (const BatchRow& row : batch.rows) {
    if (row.logits_before) {
      backend_->Copy(work_.head_input->floats() + first * d_model,
                     states_->Layer(kLastHidden, 0) + row.slot * d_model,
                     d_model * sizeof(float));
    }
    first += row.logits_rows();
  }
}

void Mamba::SaveLastHidden() {
  const int64_t d_model = dimensions_.d_model;
  for (const Row& row : rows_) {
    const int64_t last = row.offset + row.tokens - 1;
    backend_->Copy(states_->Layer(kLastHidden, 0) + row.slot * d_model,
                   work_.normed->floats() + last * d_model,
                   d_model * sizeof(float));
  }
}

// A state that is NaN or infinite anywhere reaches the hidden vectors of every
// later token, so that these need to be looked at only.
std::vector<bool> Mamba::FiniteRows(const Batch& batch) {
  const int64_t d_model = dimensions_.d_model;
  std::vector<bool> finite(rows_.size(), true);
  finite_.resize(ids_.size());
  backend_->AllFinite({work_.normed->floats(), d_model}, finite_.size(),
                      d_model, absl::MakeSpan(finite_));
  for (size_t i = 0; i < rows_.size(); ++i) {
    for (int token = 0; token < rows_[i].tokens; ++token) {
      if (!finite_[rows_[i].offset + token]) finite[i] = false;
    }
  }
  CheckVectorsFromBefore(batch, &finite);
  return finite;
}

// What a slot held as last_hidden did not go through this step: a restored one
// may be NaN although the rest of its state is sound.
void Mamba::CheckVectorsFromBefore(const Batch& batch,
                                   std::vector<bool>* finite) {
  const auto wants_before = [](const BatchRow& row) {
    return row.logits_before;
  };
  if (std::none_of(batch.rows.begin(), batch.rows.end(), wants_before)) return;
  const int64_t d_model = dimensions_.d_model;
  finite_.resize(logits_rows_);
  backend_->AllFinite({work_.head_input->floats(), d_model}, logits_rows_,
                      d_model, absl::MakeSpan(finite_));
  int64_t first = 0;
  for (size_t i = 0; i < batch.rows.size(); ++i) {
    if (batch.rows[i].logits_before && !finite_[first]) (*finite)[i] = false;
    first += batch.rows[i].logits_rows();
  }
}

void Mamba::CopyLogitsToHost() {
  const int64_t vocab = dimensions_.vocab;
  backend_->CopyToHost(logits_.data(), work_.logits->floats(),
                       logits_rows_ * vocab * sizeof(float));
  for (int64_t row = 0; row < logits_rows_; ++row) {
    std::fill(logits_.begin() + row * vocab + known_ids_,
              logits_.begin() + (row + 1) * vocab,
              -std::numeric_limits<float>::infinity());
  }
}

absl::StatusOr<StepResult> Mamba::Step(const Batch& batch) {
  LayOut(batch);
  StepResult result;
  if (rows_.empty()) return result;
  const int64_t d_model = dimensions_.d_model;
  backend_->Embed(*weights_.embedding, ids_, work_.residual->floats());
  for (int64_t i = 0; i < dimensions_.layers; ++i) RunLayer(i);
  backend_->Norm(Norm(*weights_.final_norm), ids_.size(), d_model,
                 work_.residual->floats(), work_.normed->floats());
  if (logits_rows_ > 0) {
    GatherHeadInput(batch);
    backend_->MatMul(weights_.head(), logits_rows_,
                     {work_.head_input->floats(), d_model}, {},
                     {work_.logits->floats(), dimensions_.vocab});
    CopyLogitsToHost();
  }
  SaveLastHidden();
  result.finite = FiniteRows(batch);
  ENGRAM_RETURN_IF_ERROR(backend_->Synchronize());
  result.logits =
      absl::MakeConstSpan(logits_.data(), logits_rows_ * dimensions_.vocab);
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> LoadMamba(const std::string& folder,
                                                 const ModelConfig& config,
                                                 const Checkpoint& checkpoint,
                                                 Backend* backend,
                                                 const ModelLimits& limits,
                                                 int64_t known_ids) {
  WeightLoader loader(folder, &checkpoint, backend);
  ENGRAM_ASSIGN_OR_RETURN(const Dimensions dimensions,
                          ReadDimensions(folder, config, loader));
  ENGRAM_ASSIGN_OR_RETURN(Weights weights,
                          LoadWeights(dimensions, config, &loader));
  ENGRAM_ASSIGN_OR_RETURN(WorkBuffers work,
                          AllocateWorkBuffers(dimensions, limits, backend));
  ENGRAM_ASSIGN_OR_RETURN(
      std::unique_ptr<StatePool> states,
      StatePool::Create(backend, StateComponents(dimensions), limits.slots));
  ENGRAM_RETURN_IF_ERROR(backend->Synchronize());

  ModelInfo info;
  info.family = ModelFamilyName(config.family);
  info.parameters = loader.parameters();
  info.vocabulary_size = dimensions.vocab;
  info.layers = dimensions.layers;
  info.state_bytes = states->state_bytes();
  info.weight_format = "f32";
  info.backend = backend->name();
  info.weight_hash = checkpoint.Hash();
  return std::make_unique<Mamba>(
      backend, std::move(info), limits, dimensions, config.norm_epsilon,
      known_ids == 0 ? dimensions.vocab : known_ids, std::move(weights),
      std::move(work), std::move(states));
}

}  // namespace engram

#include "model/model_attribution.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/status.h"
#include "model/host_layer.h"

namespace engram {
namespace {

// Rows of a last product that are read in one part: as much as is read of it
// for a token, or less.
constexpr int64_t kRowsAtATime = 256;

double DotProduct(const std::vector<double>& left, const float* right) {
  double sum = 0;
  for (size_t i = 0; i < left.size(); ++i) sum += left[i] * right[i];
  return sum;
}

// What a token of the prompt, or one before it, has of a layer.
float& ShareOf(int64_t position, LayerAttribution* layer) {
  if (position < 0) return layer->before;
  const auto last = static_cast<int64_t>(layer->contributions.size());
  return position < last ? layer->contributions[position] : layer->local;
}

class ModelAttribution final : public Inspection {
 public:
  ModelAttribution(const InspectedModel& model, InspectionQuestion question,
                   HostProducts* products)
      : model_(model), question_(std::move(question)), products_(*products) {
    ENGRAM_CHECK(question_.attribution.has_value() && tokens() > 0);
  }

  absl::StatusOr<bool> Advance() override;
  InspectionAnswer TakeAnswer() override {
    ENGRAM_CHECK(next_ == Next::kDone);
    InspectionAnswer answer;
    answer.attribution = std::move(answer_);
    return answer;
  }

 private:
  enum class Next { kOpen, kEmbed, kFeed, kTarget, kDirection, kDone };

  struct Layer {
    HostLayer host;
    size_t first_answer = 0;  // of its states, in answer_.layers
    ProbedOutputs asked;      // what it added at the asked token
  };

  int64_t tokens() const {
    return static_cast<int64_t>(question_.tokens.size());
  }
  bool is_second_pass() const { return !looked_in_.empty(); }
  // Whether the rows that are fed are the asked token, which comes next in the
  // first pass.
  bool IsAsked() const { return !is_second_pass() && row_ == tokens() - 1; }

  // The parts; each sets what is next.
  absl::Status OpenLayer();
  absl::Status Embed();
  absl::Status FeedLayer();
  absl::Status FindTarget();
  absl::Status FindDirection();

  void BeginPass();
  absl::Status LookIn(int32_t id, double weight, const HostNorm& norm,
                      double scale);
  absl::Status TellDirect(Layer* layer);
  void AddContributions(const Layer& layer, const ProbedOutputs& outputs);

  const InspectedModel model_;
  const InspectionQuestion question_;
  HostProducts& products_;
  Attribution answer_;

  Next next_ = Next::kOpen;
  std::vector<Layer> layers_;
  // Rows that are on their way through the layers.
  int64_t row_ = 0;
  int64_t rows_ = 0;
  size_t layer_ = 0;
  std::vector<float> residual_;    // [rows, d_model]
  std::vector<double> looked_in_;  // g, once it is known
  std::vector<double> direction_;  // the layer's W_outᵀ g, as far as it is
  int64_t direction_rows_ = 0;
};

absl::StatusOr<bool> ModelAttribution::Advance() {
  switch (next_) {
    case Next::kOpen:
      ENGRAM_RETURN_IF_ERROR(OpenLayer());
      break;
    case Next::kEmbed:
      ENGRAM_RETURN_IF_ERROR(Embed());
      break;
    case Next::kFeed:
      ENGRAM_RETURN_IF_ERROR(FeedLayer());
      break;
    case Next::kTarget:
      ENGRAM_RETURN_IF_ERROR(FindTarget());
      break;
    case Next::kDirection:
      ENGRAM_RETURN_IF_ERROR(FindDirection());
      break;
    case Next::kDone:
      break;
  }
  return next_ == Next::kDone;
}

absl::Status ModelAttribution::OpenLayer() {
  const auto index = static_cast<int64_t>(layers_.size());
  ENGRAM_ASSIGN_OR_RETURN(
      HostLayer host, HostLayer::Open(model_, question_.state,
                                      question_.position, index, &products_));
  const size_t first_answer = answer_.layers.size();
  for (const char* const state : host.probe().shares()) {
    LayerAttribution layer;
    layer.layer = index;
    layer.mixer = host.mixer();
    layer.state = state;
    layer.contributions.resize(tokens() - 1);
    answer_.layers.push_back(std::move(layer));
  }
  layers_.push_back({std::move(host), first_answer, {}});
  if (index + 1 == model_.layers->layers()) BeginPass();
  return absl::OkStatus();
}

void ModelAttribution::BeginPass() {
  row_ = 0;
  next_ = Next::kEmbed;
}

absl::Status ModelAttribution::Embed() {
  // The asked token is a row by itself until it is known how it reads.
  const int64_t end = is_second_pass() || IsAsked() ? tokens() : tokens() - 1;
  rows_ = std::min(end - row_, products_.rows());
  residual_.resize(rows_ * model_.d_model);
  std::vector<int64_t> positions(rows_);
  std::iota(positions.begin(), positions.end(), question_.position + row_);
  layer_ = 0;
  next_ = Next::kFeed;
  return model_.Embed(
      absl::MakeConstSpan(question_.tokens).subspan(row_, rows_), positions,
      &products_, residual_.data());
}

absl::Status ModelAttribution::FeedLayer() {
  Layer& layer = layers_[layer_];
  ProbedRows rows;
  rows.rows = rows_;
  rows.is_asked = IsAsked();
  rows.in_sequence = !rows.is_asked;
  ENGRAM_ASSIGN_OR_RETURN(ProbedOutputs outputs,
                          layer.host.Feed(rows, residual_.data()));
  if (rows.is_asked) {
    outputs.memory_tokens = {};
    layer.asked = std::move(outputs);
  } else if (is_second_pass()) {
    AddContributions(layer, outputs);
  }
  if (++layer_ < layers_.size()) return absl::OkStatus();
  row_ += rows_;
  if (row_ < tokens()) {
    next_ = Next::kEmbed;
  } else {
    next_ = is_second_pass() ? Next::kDone : Next::kTarget;
  }
  return absl::OkStatus();
}

absl::Status ModelAttribution::FindTarget() {
  const AttributionQuestion& asked = *question_.attribution;
  ENGRAM_ASSIGN_OR_RETURN(
      const HostNorm norm,
      HostNorm::Read(model_.final_norm, model_.d_model, products_));
  std::vector<float> hidden(model_.d_model);
  norm.Apply(residual_.data(), hidden.data());
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<float> logits,
                          model_.Logits(hidden, 1, &products_));
  answer_.tokens = question_.tokens;
  const std::vector<LogProbability> likeliest =
      model_.Likeliest(logits.data(), 1);
  answer_.target =
      asked.target.value_or(likeliest.empty() ? 0 : likeliest[0].id);
  answer_.logit = logits[answer_.target];
  const double scale = norm.Scale(residual_.data());
  looked_in_.resize(model_.d_model);
  ENGRAM_RETURN_IF_ERROR(LookIn(answer_.target, 1, norm, scale));
  const auto others = static_cast<double>(asked.against.size());
  double against = 0;
  for (const int32_t id : asked.against) {
    against += logits[id] / others;
    ENGRAM_RETURN_IF_ERROR(LookIn(id, -1 / others, norm, scale));
  }
  answer_.against = static_cast<float>(against);
  layer_ = 0;
  next_ = Next::kDirection;
  return absl::OkStatus();
}

// Adds a token's direction, back through the final norm.
absl::Status ModelAttribution::LookIn(int32_t id, double weight,
                                      const HostNorm& norm, double scale) {
  std::vector<float> row(model_.d_model);
  ENGRAM_RETURN_IF_ERROR(
      products_.Embed(model_.embedding->head(), {&id, 1}, row.data()));
  double mean = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    row[i] *= norm.weight[i];
    mean += double{row[i]} / static_cast<double>(row.size());
  }
  if (norm.kind == NormKind::kRms) mean = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    looked_in_[i] += weight * (row[i] - mean) / scale;
  }
  return absl::OkStatus();
}

// Some rows of the layer's last product; after the last of them the layer is
// ready for the second pass.
absl::Status ModelAttribution::FindDirection() {
  Layer& layer = layers_[layer_];
  const PackedWeight& weight = *layer.host.probe().last_product().weight;
  if (direction_rows_ == 0) direction_.assign(weight.inputs(), 0);
  const int64_t end =
      std::min(weight.outputs(), direction_rows_ + kRowsAtATime);
  ENGRAM_RETURN_IF_ERROR(products_.AddTransposed(
      weight, direction_rows_, end - direction_rows_,
      looked_in_.data() + direction_rows_, direction_.data()));
  direction_rows_ = end;
  if (end < weight.outputs()) return absl::OkStatus();
  direction_rows_ = 0;
  ENGRAM_RETURN_IF_ERROR(TellDirect(&layer));
  const std::vector<double> before = layer.host.probe().Attribute(
      direction_, question_.attribution->through_convolution);
  for (size_t i = 0; i < before.size(); ++i) {
    answer_.layers[layer.first_answer + i].before =
        static_cast<float>(before[i]);
  }
  if (++layer_ == layers_.size()) BeginPass();
  return absl::OkStatus();
}

// The first state has what the token itself adds, the others only what they
// remember.
absl::Status ModelAttribution::TellDirect(Layer* layer) {
  const LinearWeights& last = layer->host.probe().last_product();
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<float> bias,
                          products_.Read(last.bias, model_.d_model));
  double first = DotProduct(looked_in_, layer->asked.all.data());
  if (!bias.empty()) first -= DotProduct(looked_in_, bias.data());
  for (size_t i = 1; i < layer->asked.shares.size(); ++i) {
    const double own = DotProduct(looked_in_, layer->asked.shares[i].data());
    answer_.layers[layer->first_answer + i].direct = static_cast<float>(own);
    first -= own;
  }
  answer_.layers[layer->first_answer].direct = static_cast<float>(first);
  layer->asked = {};
  return absl::OkStatus();
}

void ModelAttribution::AddContributions(const Layer& layer,
                                        const ProbedOutputs& outputs) {
  for (size_t state = 0; state < outputs.contributions.size(); ++state) {
    LayerAttribution& answer = answer_.layers[layer.first_answer + state];
    for (int64_t row = 0; row < rows_; ++row) {
      const TokenContribution& own = outputs.contributions[state][row];
      answer.bias += static_cast<float>(own.bias);
      for (size_t lag = 0; lag < own.by_lag.size(); ++lag) {
        const int64_t position = row_ + row - static_cast<int64_t>(lag);
        ShareOf(position, &answer) += static_cast<float>(own.by_lag[lag]);
      }
    }
  }
}

}  // namespace

std::unique_ptr<Inspection> MakeAttribution(const InspectedModel& model,
                                            InspectionQuestion question,
                                            HostProducts* products) {
  return std::make_unique<ModelAttribution>(model, std::move(question),
                                            products);
}

}  // namespace engram

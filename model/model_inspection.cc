// Layer by layer: the tokens one after the other on a copy of the layer's
// state, then the queries, each from that copy as it is then. So no more than
// one layer's state is ever copied, and each weight is read once for some rows.
#include "model/model_inspection.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/status.h"
#include "model/host_layer.h"
#include "model/probe_math.h"
#include "model/state_values.h"

namespace engram {
namespace {

// Values that are summed up in one part.
constexpr int64_t kValuesAtATime = int64_t{1} << 20;

class ModelInspection final : public Inspection {
 public:
  ModelInspection(const InspectedModel& model, InspectionQuestion question,
                  HostProducts* products)
      : model_(model), question_(std::move(question)), products_(*products) {}

  absl::StatusOr<bool> Advance() override;
  InspectionAnswer TakeAnswer() override {
    ENGRAM_CHECK(next_ == Next::kDone);
    return std::move(answer_);
  }

 private:
  enum class Next {
    kBegin,
    kEmbed,
    kSummary,
    kKeyValues,
    kFeed,
    kAnswer,
    kDone
  };

  // Of a layer's state that answers, for all queries.
  struct Share {
    int64_t layer = 0;
    const char* mixer = "";
    const char* state = "";
    std::vector<float> residual;  // [queries, d_model]
  };

  int64_t tokens() const {
    return static_cast<int64_t>(question_.tokens.size());
  }
  int64_t queries() const {
    return static_cast<int64_t>(question_.queries.size());
  }
  float* Residual(int64_t row) { return &residual_[row * model_.d_model]; }

  // The parts; each sets what is next.
  absl::Status Begin();
  absl::Status Embed();
  absl::Status SummariseLayer();
  void SummariseKeyValues();
  absl::Status FeedLayer();
  absl::Status Answer();

  void BeginLayer(int64_t layer);
  void TakeShares(const ProbedOutputs& outputs, int64_t first, int64_t rows);
  void TellFading(const ProbedOutputs& outputs);
  // What the head says of these vectors.
  absl::StatusOr<std::vector<std::vector<LogProbability>>> Head(
      const std::vector<float>& hidden, int64_t rows, int64_t count);

  const InspectedModel model_;
  InspectionQuestion question_;
  HostProducts& products_;
  InspectionAnswer answer_;

  Next next_ = Next::kBegin;
  std::vector<float> residual_;  // [tokens + queries, d_model]
  int64_t row_ = 0;              // the next one to be fed, or embedded
  int64_t layer_ = 0;
  std::optional<HostLayer> host_layer_;
  std::vector<Share> shares_;
  // Of keys and values that are being summed up.
  std::vector<const float*> blocks_;
  size_t block_ = 0;
  std::optional<StateValues> values_;
  // Of answers: all of the model's, then of each share.
  HostNorm final_norm_;
  std::vector<double> scales_;  // of the queries' last residuals
  size_t answered_shares_ = 0;
  bool whole_answered_ = false;
};

absl::StatusOr<bool> ModelInspection::Advance() {
  switch (next_) {
    case Next::kBegin:
      ENGRAM_RETURN_IF_ERROR(Begin());
      break;
    case Next::kEmbed:
      ENGRAM_RETURN_IF_ERROR(Embed());
      break;
    case Next::kSummary:
      ENGRAM_RETURN_IF_ERROR(SummariseLayer());
      break;
    case Next::kKeyValues:
      SummariseKeyValues();
      break;
    case Next::kFeed:
      ENGRAM_RETURN_IF_ERROR(FeedLayer());
      break;
    case Next::kAnswer:
      ENGRAM_RETURN_IF_ERROR(Answer());
      break;
    case Next::kDone:
      break;
  }
  return next_ == Next::kDone;
}

// The likeliest token to come next stands for a query that is not asked.
absl::Status ModelInspection::Begin() {
  const bool has_room =
      model_.max_positions == 0 || question_.position < model_.max_positions;
  if (question_.describe && queries() == 0 && question_.position > 0 &&
      tokens() == 0 && has_room) {
    const int last = static_cast<int>(model_.states->components().size()) - 1;
    const float* const hidden =
        model_.states->SavedLayer(question_.state, last, 0);
    ENGRAM_ASSIGN_OR_RETURN(
        const auto likeliest,
        Head(std::vector<float>(hidden, hidden + model_.d_model), 1, 1));
    if (!likeliest[0].empty()) question_.queries = {likeliest[0][0].id};
  }
  residual_.resize((tokens() + queries()) * model_.d_model);
  if (residual_.empty()) {
    BeginLayer(0);
  } else {
    next_ = Next::kEmbed;
  }
  return absl::OkStatus();
}

absl::Status ModelInspection::Embed() {
  const int64_t all = tokens() + queries();
  std::vector<int32_t> ids;
  std::vector<int64_t> positions;
  for (int64_t row = row_; row < std::min(all, row_ + products_.rows());
       ++row) {
    ids.push_back(row < tokens() ? question_.tokens[row]
                                 : question_.queries[row - tokens()]);
    positions.push_back(question_.position + std::min(row, tokens()));
  }
  ENGRAM_RETURN_IF_ERROR(
      model_.Embed(ids, positions, &products_, Residual(row_)));
  row_ += static_cast<int64_t>(ids.size());
  if (row_ == all) BeginLayer(0);
  return absl::OkStatus();
}

void ModelInspection::BeginLayer(int64_t layer) {
  layer_ = layer;
  row_ = 0;
  host_layer_.reset();
  if (layer == model_.layers->layers()) {
    next_ = question_.alternatives > 0 && queries() > 0 ? Next::kAnswer
                                                        : Next::kDone;
    return;
  }
  next_ = question_.describe ? Next::kSummary : Next::kFeed;
}

absl::Status ModelInspection::SummariseLayer() {
  for (const BlockStack::LayerState& state :
       model_.layers->StatesOf(layer_, *model_.states, question_.state)) {
    StateSummary summary;
    summary.layer = layer_;
    summary.mixer = state.mixer;
    summary.state = state.component.name;
    const int64_t floats = state.component.floats();
    if (!state.fades) summary.window_tokens = state.component.shape[0];
    StateValues values(floats);
    if (state.values != nullptr) {
      values.Add(absl::MakeConstSpan(state.values, floats));
    }
    values.Tell(&summary);
    summary.values = floats;
    answer_.states.push_back(std::move(summary));
  }
  blocks_ = model_.layers->KeyValuesOf(layer_, *model_.states, question_.state,
                                       question_.position);
  if (blocks_.empty()) {
    next_ = Next::kFeed;
    return absl::OkStatus();
  }
  block_ = 0;
  const int64_t width = model_.layers->KeyValues().width;
  values_.emplace(2 * width * question_.position);
  next_ = Next::kKeyValues;
  return absl::OkStatus();
}

void ModelInspection::SummariseKeyValues() {
  const int64_t width = model_.layers->KeyValues().width;
  const int64_t floats = width * kKeyValueBlockTokens;
  const int64_t at_once = std::max<int64_t>(1, kValuesAtATime / (2 * floats));
  const size_t end = std::min(blocks_.size(), block_ + at_once);
  for (; block_ < end; ++block_) {
    const int64_t first = static_cast<int64_t>(block_) * kKeyValueBlockTokens;
    const int64_t used =
        std::min(kKeyValueBlockTokens, question_.position - first);
    if (used == kKeyValueBlockTokens) {
      values_->Add(absl::MakeConstSpan(blocks_[block_], 2 * floats));
      continue;
    }
    // What lies behind the last token means nothing. Keys are apart by a
    // block's tokens, values lie head by head, token by token.
    const float* const keys = blocks_[block_];
    for (int64_t i = 0; i < width; ++i) {
      values_->Add(absl::MakeConstSpan(keys + i * kKeyValueBlockTokens, used));
    }
    const float* const values = keys + floats;
    const int64_t head_dim = model_.layers->KeyValues().head_dim;
    for (int64_t head = 0; head < width / head_dim; ++head) {
      values_->Add(absl::MakeConstSpan(
          values + head * kKeyValueBlockTokens * head_dim, used * head_dim));
    }
  }
  if (block_ < blocks_.size()) return;
  StateSummary summary;
  summary.layer = layer_;
  summary.mixer = "attention";
  summary.state = "keys_values";
  summary.window_tokens = question_.position;
  values_->Tell(&summary);
  values_.reset();
  answer_.states.push_back(std::move(summary));
  next_ = Next::kFeed;
}

absl::Status ModelInspection::FeedLayer() {
  if (residual_.empty()) {
    BeginLayer(layer_ + 1);
    return absl::OkStatus();
  }
  if (!host_layer_.has_value()) {
    ENGRAM_ASSIGN_OR_RETURN(
        host_layer_, HostLayer::Open(model_, question_.state,
                                     question_.position, layer_, &products_));
  }
  const int64_t first = row_;
  ProbedRows rows;
  rows.in_sequence = first < tokens();
  const int64_t end = rows.in_sequence ? tokens() : tokens() + queries();
  rows.rows = std::min(end - first, products_.rows());
  ENGRAM_ASSIGN_OR_RETURN(const ProbedOutputs outputs,
                          host_layer_->Feed(rows, Residual(first)));
  if (first == tokens()) TellFading(outputs);
  if (!rows.in_sequence) TakeShares(outputs, first - tokens(), rows.rows);
  row_ += rows.rows;
  if (row_ == tokens() + queries()) BeginLayer(layer_ + 1);
  return absl::OkStatus();
}

void ModelInspection::TellFading(const ProbedOutputs& outputs) {
  if (!question_.describe || outputs.memory_tokens.empty()) return;
  answer_.fading_token = question_.queries[0];
  for (StateSummary& summary : answer_.states) {
    if (summary.layer != layer_ || summary.window_tokens > 0) continue;
    summary.fading = FadingTimeOf(outputs.memory_tokens);
  }
}

void ModelInspection::TakeShares(const ProbedOutputs& outputs, int64_t first,
                                 int64_t rows) {
  if (question_.alternatives == 0) return;
  const std::vector<const char*> names = host_layer_->probe().shares();
  for (const char* const name : names) {
    if (first > 0) break;
    shares_.push_back({layer_, host_layer_->mixer(), name,
                       std::vector<float>(queries() * model_.d_model)});
  }
  const size_t of_layer = shares_.size() - names.size();
  for (size_t i = 0; i < names.size(); ++i) {
    std::copy_n(
        outputs.shares[i].begin(), rows * model_.d_model,
        shares_[of_layer + i].residual.begin() + first * model_.d_model);
  }
}

absl::StatusOr<std::vector<std::vector<LogProbability>>> ModelInspection::Head(
    const std::vector<float>& hidden, int64_t rows, int64_t count) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<float> logits,
                          model_.Logits(hidden, rows, &products_));
  const auto width = static_cast<int64_t>(logits.size()) / rows;
  std::vector<std::vector<LogProbability>> likeliest;
  for (int64_t row = 0; row < rows; ++row) {
    likeliest.push_back(model_.Likeliest(&logits[row * width], count));
  }
  return likeliest;
}

// First of all the model's answers, then those of one share after the other.
absl::Status ModelInspection::Answer() {
  const int64_t d_model = model_.d_model;
  if (scales_.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(
        final_norm_, HostNorm::Read(model_.final_norm, d_model, products_));
    for (int64_t i = 0; i < queries(); ++i) {
      scales_.push_back(final_norm_.Scale(Residual(tokens() + i)));
      answer_.queries.push_back({question_.queries[i], {}, {}});
    }
  }
  const int64_t rows = std::min(queries() - row_, products_.rows());
  const bool of_all = !whole_answered_;
  std::vector<float> hidden(rows * d_model);
  for (int64_t row = 0; row < rows; ++row) {
    float* const own = &hidden[row * d_model];
    if (of_all) {
      final_norm_.Apply(Residual(tokens() + row_ + row), own);
    } else {
      final_norm_.ApplyToShare(
          &shares_[answered_shares_].residual[(row_ + row) * d_model],
          scales_[row_ + row], own);
    }
  }
  ENGRAM_ASSIGN_OR_RETURN(auto likeliest,
                          Head(hidden, rows, question_.alternatives));
  for (int64_t row = 0; row < rows; ++row) {
    QueryAnswer& answer = answer_.queries[row_ + row];
    if (of_all) {
      answer.top = std::move(likeliest[row]);
      continue;
    }
    const Share& share = shares_[answered_shares_];
    answer.layers.push_back(
        {share.layer, share.mixer, share.state, std::move(likeliest[row])});
  }
  row_ += rows;
  if (row_ < queries()) return absl::OkStatus();
  row_ = 0;
  if (of_all) {
    whole_answered_ = true;
  } else {
    shares_[answered_shares_++].residual = {};
  }
  if (answered_shares_ == shares_.size()) next_ = Next::kDone;
  return absl::OkStatus();
}

}  // namespace

std::unique_ptr<Inspection> MakeInspection(const InspectedModel& model,
                                           InspectionQuestion question,
                                           HostProducts* products) {
  return std::make_unique<ModelInspection>(model, std::move(question),
                                           products);
}

}  // namespace engram

#include "model/model_ablation.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/host_layer.h"
#include "model/layer_edits.h"

namespace engram {
namespace {

using EditsByLayer = std::map<int64_t, LayerEdits>;

class ModelAblation final : public Inspection {
 public:
  ModelAblation(const InspectedModel& model, InspectionQuestion question,
                EditsByLayer edits, HostProducts* products)
      : model_(model),
        question_(std::move(question)),
        edits_(std::move(edits)),
        products_(*products) {
    answer_.tokens = question_.tokens;
    BeginAnswer();
  }

  absl::StatusOr<bool> Advance() override;
  InspectionAnswer TakeAnswer() override {
    ENGRAM_CHECK(next_ == Next::kDone);
    InspectionAnswer answer;
    answer.ablation = std::move(answer_);
    return answer;
  }

 private:
  enum class Next { kOpen, kEmbed, kFeed, kDraw, kDone };

  // A token that is fed in place of the one at row_, so that a layer keeps its
  // write.
  struct Alternative {
    int64_t layer = 0;
    int32_t token = 0;
  };

  const AblationQuestion& asked() const { return *question_.ablation; }
  int64_t prompt() const {
    return static_cast<int64_t>(question_.tokens.size());
  }
  int64_t fed() const { return static_cast<int64_t>(tokens_.size()); }
  std::vector<AnsweredToken>& told() {
    return is_edited_ ? answer_.edited : answer_.untouched;
  }
  const LayerEdits* EditsOf(int64_t layer) const {
    const auto edits = edits_.find(layer);
    return is_edited_ && edits != edits_.end() ? &edits->second : nullptr;
  }

  // The parts; each sets what is next.
  absl::Status OpenLayer();
  absl::Status Embed();
  absl::Status FeedLayer();
  absl::Status Draw();

  void BeginAnswer();
  void BeginRows();
  bool IsReplaced(int64_t position) const;

  const InspectedModel model_;
  const InspectionQuestion question_;
  const EditsByLayer edits_;
  HostProducts& products_;
  Ablation answer_;

  // Of one of the answers, the edited one first.
  bool is_edited_ = true;
  Next next_ = Next::kOpen;
  std::vector<HostLayer> layers_;
  std::vector<int32_t> tokens_;  // to be fed: the prompt, then the answer
  TokenSet seen_{0};
  std::map<int32_t, int32_t> answered_;  // with how often
  std::function<bool(int32_t id)> reader_;
  HostNorm final_norm_;

  // Rows that are on their way through the layers: of tokens_, or while there
  // are any, the last of `alternatives_`.
  int64_t row_ = 0;
  int64_t rows_ = 0;
  std::vector<Alternative> alternatives_;
  size_t layer_ = 0;
  std::vector<float> residual_;  // [rows, d_model]
};

void ModelAblation::BeginAnswer() {
  layers_.clear();
  tokens_ = question_.tokens;
  seen_ = asked().seen != nullptr ? *asked().seen : TokenSet(model_.known_ids);
  for (const int32_t id : tokens_) seen_.Insert(id);
  answered_.clear();
  reader_ = asked().reader ? asked().reader() : nullptr;
  row_ = 0;
  next_ = Next::kOpen;
}

absl::StatusOr<bool> ModelAblation::Advance() {
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
    case Next::kDraw:
      ENGRAM_RETURN_IF_ERROR(Draw());
      break;
    case Next::kDone:
      break;
  }
  return next_ == Next::kDone;
}

absl::Status ModelAblation::OpenLayer() {
  const auto index = static_cast<int64_t>(layers_.size());
  ENGRAM_ASSIGN_OR_RETURN(
      HostLayer layer, HostLayer::Open(model_, question_.state,
                                       question_.position, index, &products_));
  if (const LayerEdits* const edits = EditsOf(index)) {
    edits->Begin(&layer.probe());
  }
  layers_.push_back(std::move(layer));
  if (index + 1 < model_.layers->layers()) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(
      final_norm_,
      HostNorm::Read(model_.final_norm, model_.d_model, products_));
  BeginRows();
  return absl::OkStatus();
}

bool ModelAblation::IsReplaced(int64_t position) const {
  return is_edited_ &&
         std::any_of(edits_.begin(), edits_.end(), [&](const auto& edits) {
           return edits.second.replaced().contains(position);
         });
}

void ModelAblation::BeginRows() {
  for (const auto& [layer, edits] : edits_) {
    const auto replaced = edits.replaced().find(row_);
    if (!is_edited_ || replaced == edits.replaced().end()) continue;
    alternatives_.push_back({layer, replaced->second});
  }
  next_ = Next::kEmbed;
}

absl::Status ModelAblation::Embed() {
  std::vector<int32_t> ids;
  if (!alternatives_.empty()) {
    ids = {alternatives_.back().token};
  } else {
    // A position that is to be replaced begins the rows that it is in.
    int64_t end = std::min(fed(), row_ + products_.rows());
    for (int64_t row = row_ + 1; row < end; ++row) {
      if (IsReplaced(row)) end = row;
    }
    ids.assign(tokens_.begin() + row_, tokens_.begin() + end);
  }
  rows_ = static_cast<int64_t>(ids.size());
  residual_.resize(rows_ * model_.d_model);
  std::vector<int64_t> positions(rows_);
  std::iota(positions.begin(), positions.end(), question_.position + row_);
  layer_ = 0;
  next_ = Next::kFeed;
  return model_.Embed(ids, positions, &products_, residual_.data());
}

absl::Status ModelAblation::FeedLayer() {
  const auto layer = static_cast<int64_t>(layer_);
  const LayerEdits* const edits = EditsOf(layer);
  ProbedRows rows;
  rows.rows = rows_;
  std::vector<StateWrite> writes;
  const bool is_alternative = !alternatives_.empty();
  if (is_alternative) {
    rows.keeps_write = layer == alternatives_.back().layer;
  } else {
    rows.in_sequence = true;
    for (int64_t row = row_; row < row_ + rows_ && edits != nullptr; ++row) {
      writes.push_back(row < prompt() ? edits->WriteAt(row) : StateWrite::kOwn);
    }
    if (edits != nullptr) rows.writes = writes.data();
  }
  ENGRAM_RETURN_IF_ERROR(
      layers_[layer_++].Feed(rows, residual_.data()).status());
  if (rows.keeps_write) {
    alternatives_.pop_back();
    next_ = Next::kEmbed;
    return absl::OkStatus();
  }
  if (layer_ < layers_.size()) return absl::OkStatus();
  row_ += rows_;
  if (row_ < fed()) {
    BeginRows();
  } else {
    next_ = Next::kDraw;
  }
  return absl::OkStatus();
}

absl::Status ModelAblation::Draw() {
  std::vector<float> hidden(model_.d_model);
  final_norm_.Apply(&residual_[(rows_ - 1) * model_.d_model], hidden.data());
  OutcomeRequest request;
  request.draw.parameters = &asked().sampling;
  request.draw.index = static_cast<uint64_t>(question_.position + fed());
  request.draw.seen = &seen_;
  request.draw.generated = &answered_;
  request.draw.stop_ids = asked().stop_ids;
  request.alternatives = asked().alternatives;
  ENGRAM_ASSIGN_OR_RETURN(
      Outcome drawn, products_.Draw(model_.embedding->head(), hidden.data(),
                                    model_.known_ids, request));
  bool ends = drawn.token < 0 || !drawn.finite;
  if (!ends) {
    const int32_t id = drawn.token;
    told().push_back(
        {id, drawn.stops, drawn.log_probability, std::move(drawn.top)});
    ends = drawn.stops ||
           static_cast<int64_t>(told().size()) >= asked().max_tokens;
    if (reader_ && reader_(id)) ends = true;
    tokens_.push_back(id);
    seen_.Insert(id);
    ++answered_[id];
  }
  if (!ends) {
    BeginRows();
  } else if (std::exchange(is_edited_, false)) {
    BeginAnswer();
  } else {
    next_ = Next::kDone;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Inspection>> MakeAblation(
    const InspectedModel& model, InspectionQuestion question,
    HostProducts* products) {
  ENGRAM_CHECK(question.ablation.has_value() && !question.tokens.empty() &&
               question.ablation->max_tokens >= 1);
  const std::vector<LayerEdit>& edits = question.ablation->edits;
  EditsByLayer by_layer;
  for (size_t i = 0; i < edits.size(); ++i) {
    const LayerEdit& edit = edits[i];
    const auto refuse = [&](absl::string_view why) {
      return absl::InvalidArgumentError(absl::StrCat("edits[", i, "]: ", why));
    };
    const int64_t layers = model.layers->layers();
    if (edit.layer < 0 || edit.layer >= layers) {
      return refuse(
          absl::StrCat("layer is ", edit.layer, ", limit 0 to ", layers - 1));
    }
    absl::Status good = CheckEdit(edit, model.layers->MixerOf(edit.layer),
                                  static_cast<int64_t>(question.tokens.size()));
    if (good.ok()) good = by_layer[edit.layer].Add(edit);
    if (!good.ok()) return refuse(good.message());
  }
  return std::make_unique<ModelAblation>(model, std::move(question),
                                         std::move(by_layer), products);
}

}  // namespace engram

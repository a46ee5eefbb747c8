#include "model/language_model.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "model/begun_step.h"
#include "model/block_stack.h"
#include "model/embedding.h"
#include "model/model_ablation.h"
#include "model/model_attribution.h"
#include "model/model_inspection.h"
#include "model/modules.h"

namespace engram {
namespace {

// The component of the state behind those of the layers: the normed hidden
// vector of the last token fed. The logits that follow a restored state can be
// made from it without feeding a token.
constexpr char kLastHidden[] = "last_hidden";

// Activations of one step, for the most tokens and logits it can have.
struct WorkBuffers {
  std::unique_ptr<Buffer> residual;    // [tokens, d_model]
  std::unique_ptr<Buffer> normed;      // [tokens, d_model], by the last norm
  std::unique_ptr<Buffer> head_input;  // [logits rows, d_model]
  std::unique_ptr<Buffer> logits;      // [logits rows, vocab]
};

absl::StatusOr<WorkBuffers> AllocateWorkBuffers(const ModelConfig& config,
                                                const ModelLimits& limits,
                                                Backend* backend) {
  const auto allocate = [backend](int64_t rows, int64_t width) {
    return backend->Allocate(rows * width * sizeof(float));
  };
  const int64_t tokens = limits.max_batch_tokens;
  const int64_t logits_rows = limits.max_logits_rows;
  WorkBuffers work;
  ENGRAM_ASSIGN_OR_RETURN(work.residual, allocate(tokens, config.d_model));
  ENGRAM_ASSIGN_OR_RETURN(work.normed, allocate(tokens, config.d_model));
  ENGRAM_ASSIGN_OR_RETURN(work.head_input,
                          allocate(logits_rows, config.d_model));
  ENGRAM_ASSIGN_OR_RETURN(work.logits, allocate(logits_rows, config.vocab));
  return work;
}

// Of a step that may be padded.
int64_t MostPaddedRows(const ModelLimits& limits) {
  return std::min(limits.max_batch_tokens, limits.max_logits_rows);
}

LargestStep LargestStepOf(const ModelConfig& config, const ModelLimits& limits,
                          int64_t block_floats, int64_t kv_blocks) {
  LargestStep largest = {
      .rows = std::max<int64_t>(limits.slots, MostPaddedRows(limits)),
      .tokens = limits.max_batch_tokens,
      .block_floats = block_floats,
      .outcomes = limits.max_logits_rows,
      .ids = config.vocab};
  // Each row may have all of them, for slots share them.
  largest.kv_blocks = std::min<int64_t>(MultiplySizes(limits.slots, kv_blocks),
                                        std::numeric_limits<int32_t>::max());
  return largest;
}

// What is asked for, or what all slots can fill if that is less.
size_t KeyValueBytes(const ModelConfig& config, const ModelLimits& limits,
                     const KeyValueShape& shape) {
  if (config.positions == 0) return limits.kv_bytes;
  size_t all = KeyValueBlocks(config.positions) * shape.block_bytes();
  if (__builtin_mul_overflow(all, static_cast<size_t>(limits.slots), &all)) {
    return limits.kv_bytes;
  }
  return std::min(limits.kv_bytes, all);
}

// Whether all rows are a token that draws the next one.
bool WantsTokens(const Batch& batch) {
  return std::all_of(batch.rows.begin(), batch.rows.end(),
                     [](const BatchRow& row) {
                       return row.wanted == Wanted::kToken &&
                              (row.follows || row.tokens.size() == 1);
                     });
}

// Models of one back end are replayed apart.
uint64_t NextModel() {
  static std::atomic<uint64_t> next = 0;
  return next++;
}

// What a model has in the back end's memory.
struct Parts {
  std::unique_ptr<BlockStack> layers;
  Embedding embedding;
  Norm final_norm;
  WorkBuffers work;
  std::unique_ptr<StatePool> states;
  std::unique_ptr<HostProducts> products;
  // Of these, as the back end says what it has.
  MemoryPlan memory;
};

// One is finished while another runs.
constexpr int kBegunSteps = 2;

class LanguageModel final : public Model {
 public:
  LanguageModel(Backend* backend, ModelInfo info, const ModelLimits& limits,
                const ModelConfig& config, int64_t known_ids, Parts parts);
  // What is begun would be brought to where the model was.
  ~LanguageModel() override;

  const ModelInfo& info() const override { return info_; }
  const ModelLimits& limits() const override { return limits_; }
  StatePool& states() override { return *states_; }
  absl::Status Begin(const Batch& batch) override;
  absl::StatusOr<StepResult> Finish() override;
  absl::Status WarmUp() override;
  absl::StatusOr<std::unique_ptr<Inspection>> Inspect(
      InspectionQuestion question) override;
  std::vector<float> LogitsForTest() const override;

 private:
  // Checks the batch and lays its rows and ids out one after another.
  absl::Status LayOut(const Batch& batch);
  // Appends the row's tokens to its state and the step.
  absl::Status AppendRow(const BatchRow& row);
  // All of a step but its layout.
  absl::Status Run(const Batch& batch);
  // What all steps begin with: from ids to normed hidden vectors.
  void RunTokens();
  // All that is done alike in every step of a token a row, each of which wants
  // one: up to the logits, and the states.
  void RunDecode();
  // All of such a step, from its ids on.
  void Decode(absl::Span<Outcome> outcomes);
  bool IsDecode(const Batch& batch) const;
  // Of a step that may be padded.
  int64_t MostRows() const;
  // What the rows want of each row of logits.
  void LayOutRequests(const Batch& batch);
  // Of a row that wants a token, in its place.
  OutcomeRequest DrawOf(const BatchRow& row, size_t place) const;
  // Collects the hidden vectors that outcomes are wanted of, and then leaves
  // each row's last one in its slot: the order is what makes scored_before see
  // the one of before.
  void GatherHeadInput(const Batch& batch);
  void FindLogits(const Batch& batch);
  void SaveLastHidden();
  // Of all slots.
  LayerShares LastHidden() const;
  // Whether the hidden vectors of all tokens of a row are finite.
  void FindFiniteRows();

  Backend* const backend_;
  const uint64_t model_ = NextModel();
  const ModelInfo info_;
  const ModelLimits limits_;
  const int64_t d_model_;
  const int64_t known_ids_;
  const Embedding embedding_;
  const Norm final_norm_;
  const WorkBuffers work_;
  const std::unique_ptr<BlockStack> layers_;
  const std::unique_ptr<StatePool> states_;
  const std::unique_ptr<HostProducts> products_;

  // Of the newest step, in host memory.
  std::vector<int32_t> ids_;  // of all rows
  const StepRows* step_ = nullptr;
  std::vector<OutcomeRequest> requests_;  // of each logits row

  // In a ring: what is begun, and not finished, and the newest.
  std::array<BegunStep, kBegunSteps> steps_;
  int newest_ = 0;
  int begun_ = 0;  // how many

  BegunStep& newest() { return steps_[newest_]; }
  const BegunStep& newest() const { return steps_[newest_]; }
  BegunStep& other() { return steps_[(newest_ + 1) % kBegunSteps]; }
  const BegunStep& other() const { return steps_[(newest_ + 1) % kBegunSteps]; }
};

LanguageModel::LanguageModel(Backend* backend, ModelInfo info,
                             const ModelLimits& limits,
                             const ModelConfig& config, int64_t known_ids,
                             Parts parts)
    : backend_(backend),
      info_(std::move(info)),
      limits_(limits),
      d_model_(config.d_model),
      known_ids_(known_ids),
      embedding_(std::move(parts.embedding)),
      final_norm_(std::move(parts.final_norm)),
      work_(std::move(parts.work)),
      layers_(std::move(parts.layers)),
      states_(std::move(parts.states)),
      products_(std::move(parts.products)) {
  for (BegunStep& step : steps_) step.outcomes.resize(limits.max_logits_rows);
}

LanguageModel::~LanguageModel() {
  if (begun_ > 0 && newest().done != nullptr) (void)newest().done->Wait();
}

absl::Status LanguageModel::LayOut(const Batch& batch) {
  newest().rows.clear();
  ids_.clear();
  for (const BatchRow& row : batch.rows) {
    ENGRAM_RETURN_IF_ERROR(AppendRow(row));
  }
  newest().stopped.assign(batch.rows.size(), false);
  std::vector<absl::Span<const int32_t>> blocks;
  if (states_->key_values().blocks > 0) {
    for (const Row& row : newest().rows) {
      blocks.push_back(states_->blocks_of(row.slot_out));
    }
  }
  step_ = &backend_->PrepareStep(newest().rows, blocks, ids_,
                                 WantsTokens(batch) ? MostRows() : 0);
  LayOutRequests(batch);
  return absl::OkStatus();
}

void LanguageModel::LayOutRequests(const Batch& batch) {
  requests_.clear();
  newest().first_outcomes = {0};
  for (size_t i = 0; i < batch.rows.size(); ++i) {
    const BatchRow& row = batch.rows[i];
    newest().first_outcomes.push_back(newest().first_outcomes.back() +
                                      row.outcomes());
    if (row.wanted == Wanted::kToken) {
      requests_.push_back(DrawOf(row, i));
    }
    if (row.wanted != Wanted::kScores) continue;
    ENGRAM_CHECK(row.scored.size() <=
                 row.tokens.size() + (row.scored_before ? 1 : 0));
    OutcomeRequest request;
    request.alternatives = row.alternatives;
    for (int32_t id : row.scored) {
      ENGRAM_CHECK(id >= 0 && id < info_.vocabulary_size);
      request.scored = id;
      requests_.push_back(request);
    }
  }
  ENGRAM_CHECK(requests_.size() <= newest().outcomes.size());
}

OutcomeRequest LanguageModel::DrawOf(const BatchRow& row, size_t place) const {
  ENGRAM_CHECK(row.draw.parameters != nullptr);
  const Row& laid_out = step_->rows()[place];
  OutcomeRequest request;
  if (laid_out.tokens == 0) return request;  // it follows a stop
  request.alternatives = row.alternatives;
  request.draw = row.draw;
  if (row.follows && backend_->is_asynchronous()) {
    request.draw.follower = static_cast<int32_t>(place);
  } else if (row.follows) {
    request.draw.newest = step_->ids()[laid_out.offset];
  }
  return request;
}

absl::Status LanguageModel::AppendRow(const BatchRow& row) {
  ENGRAM_CHECK(states_->IsTaken(row.slot) && states_->IsTaken(row.out()));
  ENGRAM_CHECK(row.tokens.empty() == row.follows);
  ENGRAM_CHECK(!row.follows || (begun_ == 1 && row.wanted == Wanted::kToken));
  const auto tokens = static_cast<int>(row.follows ? 1 : row.tokens.size());
  ENGRAM_CHECK(ids_.size() + tokens <=
               static_cast<size_t>(limits_.max_batch_tokens));
  const int64_t position = states_->tokens(row.slot);
  ENGRAM_CHECK(info_.max_positions == 0 ||
               position + tokens <= info_.max_positions);
  ENGRAM_RETURN_IF_ERROR(states_->Append(row.slot, row.out(), tokens));
  Row laid_out;
  laid_out.slot_in = row.slot;
  laid_out.slot_out = row.out();
  laid_out.tokens = tokens;
  laid_out.position = position;
  if (row.follows) {
    laid_out.follows = other().DrawnFor(row.slot, newest().rows.size());
  }
  newest().rows.push_back(laid_out);
  for (int32_t id : row.tokens) {
    ENGRAM_CHECK(id >= 0 && id < info_.vocabulary_size);
    ids_.push_back(id);
  }
  if (row.follows) ids_.push_back(0);  // the back end knows better
  return absl::OkStatus();
}

void LanguageModel::RunTokens() {
  float* const residual = work_.residual->floats();
  backend_->Embed(*step_, *embedding_.tokens, residual);
  if (embedding_.positions != nullptr) {
    backend_->AddPositions(*step_, embedding_.positions->floats(), d_model_,
                           {residual, d_model_});
  }
  layers_->Run(*step_, states_.get(), residual);
  backend_->Norm(final_norm_.weights(), step_->tokens(), d_model_, residual,
                 {work_.normed->floats(), d_model_});
}

// Row i of the logits is that of row i of the step.
void LanguageModel::RunDecode() {
  RunTokens();
  SaveLastHidden();
  backend_->MatMul(embedding_.head(), step_->tokens(),
                   {work_.normed->floats(), d_model_}, {},
                   {work_.logits->floats(), info_.vocabulary_size});
}

// False where a row that follows was found to have nothing to feed.
bool LanguageModel::IsDecode(const Batch& batch) const {
  const int64_t rows = static_cast<int64_t>(step_->rows().size());
  return WantsTokens(batch) && step_->tokens() == rows;
}

int64_t LanguageModel::MostRows() const { return MostPaddedRows(limits_); }

absl::Status LanguageModel::WarmUp() {
  const int64_t most = std::min<int64_t>(limits_.slots, MostRows());
  requests_.clear();  // padding asks for nothing
  int64_t done = 0;
  for (const int64_t padded : backend_->PaddedRows()) {
    if (done >= most) break;
    done = std::min(padded, MostRows());
    // Once as it is, and once recorded.
    for (int i = 0; i < 2; ++i) {
      step_ = &backend_->PreparePadding(done, states_->key_values().blocks > 0);
      Decode({});
    }
  }
  return backend_->Synchronize();
}

// Behind the components of the layers.
LayerShares LanguageModel::LastHidden() const {
  const int component = static_cast<int>(states_->components().size()) - 1;
  return states_->Layer(component, 0);
}

void LanguageModel::GatherHeadInput(const Batch& batch) {
  // Of the step's tokens, and of the slots.
  std::vector<int32_t> tokens, token_places, slots, slot_places;
  int32_t place = 0;
  for (size_t i = 0; i < batch.rows.size(); ++i) {
    const BatchRow& row = batch.rows[i];
    const bool before = row.wanted == Wanted::kScores && row.scored_before &&
                        !row.scored.empty();
    if (before) {
      slots.push_back(row.slot);
      slot_places.push_back(place++);
    }
    const int own = row.outcomes() - (before ? 1 : 0);
    const Row& laid_out = step_->rows()[i];
    int32_t first = laid_out.offset;
    if (row.wanted == Wanted::kToken) {
      // Of a row without tokens nothing is drawn, whatever it is made of.
      first = std::max(laid_out.offset + laid_out.tokens - 1, 0);
    }
    for (int32_t token = first; token < first + own; ++token) {
      tokens.push_back(token);
      token_places.push_back(place++);
    }
  }
  const Matrix head_input = {work_.head_input->floats(), d_model_};
  backend_->CopyRows({work_.normed->floats(), d_model_}, tokens, d_model_,
                     head_input, token_places);
  const LayerShares last_hidden = LastHidden();
  backend_->CopyRows(Matrix{last_hidden.data, last_hidden.stride}, slots,
                     d_model_, head_input, slot_places);
}

void LanguageModel::FindLogits(const Batch& batch) {
  if (requests_.empty()) return;
  GatherHeadInput(batch);
  backend_->MatMul(embedding_.head(), static_cast<int64_t>(requests_.size()),
                   {work_.head_input->floats(), d_model_}, {},
                   {work_.logits->floats(), info_.vocabulary_size});
}

void LanguageModel::SaveLastHidden() {
  backend_->KeepLastTokens(*step_, {work_.normed->floats(), d_model_}, d_model_,
                           LastHidden());
}

// A state that is NaN or infinite anywhere reaches the hidden vectors of every
// later token, so that these need to be looked at only. Weights are finite, so
// that what is NaN or infinite in a vector is so in its logits, also in one
// that a slot held as last_hidden and that did not go through this step; and a
// product of finite numbers may still be too large: that an outcome tells.
void LanguageModel::FindFiniteRows() {
  newest().finite_rows.resize(step_->rows().size());
  backend_->FiniteRows(*step_, {work_.normed->floats(), d_model_}, d_model_,
                       absl::MakeSpan(newest().finite_rows));
}

absl::Status LanguageModel::Begin(const Batch& batch) {
  ENGRAM_CHECK(begun_ < kBegunSteps);
  ENGRAM_CHECK(begun_ == 0 ||
               std::all_of(batch.rows.begin(), batch.rows.end(),
                           [](const BatchRow& row) { return row.follows; }));
  newest_ = (newest_ + 1) % kBegunSteps;
  newest().done = nullptr;
  ENGRAM_RETURN_IF_ERROR(LayOut(batch));
  if (!batch.rows.empty()) ENGRAM_RETURN_IF_ERROR(Run(batch));
  ++begun_;
  return absl::OkStatus();
}

// The same kernels with the same arguments for as many rows, whose graph a
// device need not be told again.
void LanguageModel::Decode(absl::Span<Outcome> outcomes) {
  const uint64_t key = model_ << 32 | step_->rows().size();
  backend_->ReplayToOutcomes(
      key, [this] { RunDecode(); },
      {work_.logits->floats(), info_.vocabulary_size}, known_ids_, requests_,
      outcomes);
}

absl::Status LanguageModel::Run(const Batch& batch) {
  const auto outcomes =
      absl::MakeSpan(newest().outcomes).first(requests_.size());
  if (IsDecode(batch)) {
    Decode(outcomes);
    // Each row's only vector has an outcome, which tells (FindFiniteRows).
    newest().finite_rows.assign(step_->rows().size(), 1);
  } else {
    RunTokens();
    FindLogits(batch);
    SaveLastHidden();
    if (!requests_.empty()) {
      backend_->Outcomes({work_.logits->floats(), info_.vocabulary_size},
                         known_ids_, requests_, outcomes);
    }
    FindFiniteRows();
  }
  ENGRAM_ASSIGN_OR_RETURN(newest().done, backend_->RecordEvent());
  return absl::OkStatus();
}

absl::StatusOr<StepResult> LanguageModel::Finish() {
  ENGRAM_CHECK(begun_ > 0);
  const bool is_ahead = begun_ > 1;
  BegunStep& step = is_ahead ? other() : newest();
  --begun_;
  if (step.done != nullptr) ENGRAM_RETURN_IF_ERROR(step.done->Wait());
  for (size_t i = 0; i < step.rows.size(); ++i) {
    if (step.stopped[i]) states_->TakeBack(step.rows[i].slot_out, 1);
  }
  if (is_ahead) newest().MarkStopped(step);
  return step.Result();
}

absl::StatusOr<std::unique_ptr<Inspection>> LanguageModel::Inspect(
    InspectionQuestion question) {
  InspectedModel inspected;
  inspected.layers = layers_.get();
  inspected.embedding = &embedding_;
  inspected.final_norm = final_norm_.weights();
  inspected.states = states_.get();
  inspected.d_model = d_model_;
  inspected.known_ids = known_ids_;
  inspected.max_positions = info_.max_positions;
  if (question.ablation.has_value()) {
    return MakeAblation(inspected, std::move(question), products_.get());
  }
  if (question.attribution.has_value()) {
    return MakeAttribution(inspected, std::move(question), products_.get());
  }
  return MakeInspection(inspected, std::move(question), products_.get());
}

std::vector<float> LanguageModel::LogitsForTest() const {
  const int64_t vocab = info_.vocabulary_size;
  std::vector<float> logits(requests_.size() * vocab);
  ENGRAM_CHECK_OK(backend_->CopyToHost(logits.data(), work_.logits->floats(),
                                       logits.size() * sizeof(float)));
  for (size_t row = 0; row < requests_.size(); ++row) {
    std::fill(logits.begin() + row * vocab + known_ids_,
              logits.begin() + (row + 1) * vocab,
              -std::numeric_limits<float>::infinity());
  }
  return logits;
}

// What a back end uses more from one call to the next.
class UsedSince {
 public:
  explicit UsedSince(const Backend& backend)
      : backend_(backend), before_(backend.device_memory().used) {}

  size_t Next() {
    const size_t now = backend_.device_memory().used;
    return now - std::exchange(before_, now);
  }

 private:
  const Backend& backend_;
  size_t before_;
};

absl::StatusOr<Parts> LoadParts(const ModelConfig& config,
                                const ModelLimits& limits, Backend* backend,
                                WeightLoader* loader) {
  Parts parts;
  MemoryPlan& memory = parts.memory;
  UsedSince used(*backend);
  ENGRAM_ASSIGN_OR_RETURN(parts.layers,
                          BlockStack::Load(config, backend, loader));
  ENGRAM_ASSIGN_OR_RETURN(parts.embedding, LoadEmbedding(config, loader));
  ENGRAM_ASSIGN_OR_RETURN(parts.final_norm,
                          LoadNorm(config.names.final_norm, config, loader));
  ENGRAM_RETURN_IF_ERROR(loader->CheckAllUsed({"backbone.", "lm_head."}));
  memory.weights = used.Next();
  memory.parameters = loader->parameters();

  std::vector<StateComponent> components = parts.layers->StateComponents();
  components.push_back({kLastHidden, 1, {config.d_model}});
  const KeyValueShape key_values = parts.layers->KeyValues();
  ENGRAM_ASSIGN_OR_RETURN(
      parts.states,
      StatePool::Create(backend, std::move(components), limits.slots,
                        key_values, KeyValueBytes(config, limits, key_values)));
  const int64_t blocks = parts.states->key_values().blocks;
  if (blocks > 0) {
    memory.key_values = backend->BufferBytes(blocks * key_values.block_bytes());
  }
  memory.states = used.Next() - memory.key_values;

  ENGRAM_ASSIGN_OR_RETURN(parts.work,
                          AllocateWorkBuffers(config, limits, backend));
  ENGRAM_ASSIGN_OR_RETURN(
      parts.products,
      HostProducts::Create(backend, loader->widest_inputs(),
                           loader->widest_outputs(), limits.max_batch_tokens));
  ENGRAM_RETURN_IF_ERROR(backend->ReserveSteps(
      LargestStepOf(config, limits, parts.layers->ScratchFloats(), blocks)));
  memory.logits = backend->BufferBytes(parts.work.logits->bytes());
  memory.buffers = used.Next() - memory.logits;
  ENGRAM_RETURN_IF_ERROR(backend->Synchronize());
  return parts;
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanLanguageModel(const ModelConfig& config,
                                             const ModelLimits& limits,
                                             Backend* backend,
                                             WeightLoader* loader) {
  ENGRAM_ASSIGN_OR_RETURN(const Parts parts,
                          LoadParts(config, limits, backend, loader));
  return parts.memory;
}

absl::StatusOr<std::unique_ptr<Model>> LoadLanguageModel(
    const ModelConfig& config, const ModelLimits& limits, int64_t known_ids,
    Backend* backend, WeightLoader* loader) {
  ENGRAM_ASSIGN_OR_RETURN(Parts parts,
                          LoadParts(config, limits, backend, loader));
  StatePool* const states = parts.states.get();

  ModelInfo info;
  info.family = config.family;
  info.parameters = loader->parameters();
  info.d_model = config.d_model;
  info.vocabulary_size = config.vocab;
  info.layers = config.layers();
  info.state_bytes = states->state_bytes();
  info.kv_bytes_per_token = parts.layers->KeyValues().token_bytes();
  info.kv_block_bytes = parts.layers->KeyValues().block_bytes();
  info.kv_blocks = states->key_values().blocks;
  info.max_positions = config.positions;
  info.trained_tokens = config.trained_tokens;
  info.weight_format = loader->WeightFormats();
  info.backend = backend->name();
  info.runs_ahead = backend->is_asynchronous();
  if (!config.LayersWith(MixerKind::kMamba2).empty()) {
    info.chunk_tokens = backend->ssd_chunk_tokens();
  }
  info.weight_hash = loader->WeightHash();
  info.warnings = config.warnings;
  info.warnings.insert(info.warnings.end(), loader->warnings().begin(),
                       loader->warnings().end());
  return std::make_unique<LanguageModel>(
      backend, std::move(info), limits, config,
      known_ids == 0 ? config.vocab : known_ids, std::move(parts));
}

}  // namespace engram

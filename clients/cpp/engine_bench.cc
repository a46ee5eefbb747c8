#include "clients/cpp/engine_bench.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "clients/cpp/engine_steps.h"
#include "clients/cpp/flags.h"
#include "clients/cpp/human.h"
#include "clients/cpp/program.h"
#include "clients/cpp/progress_display.h"
#include "model/random_model.h"
#include "tools/shell/standard_output.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kCommand[] = "engram-bench engine";

constexpr char kHelp[] =
    "engram-bench engine: measures steps of models on a back end, without a\n"
    "server: decoding at several numbers of rows, and reading a prompt.\n\n"
    "Usage: engram-bench engine [flags] [MODEL...]\n\n"
    "A MODEL is a folder, or a published shape, which is measured with random\n"
    "weights (all of them unless models are named):\n"
    "  %s\n\n"
    "A decode step has to move the weights once, and every row's state in and\n"
    "out; `of copies` is the rate of that as a share of what copies within "
    "the\n"
    "back end's memory reach in the same run. A prompt's rate counts two\n"
    "floating-point operations for each parameter and token, the head's but\n"
    "for the last token left out.\n\n"
    "Examples:\n"
    "  engram-bench engine mamba-130m\n"
    "  engram-bench engine --backend cuda --rows 1,256 --json mamba2-2.7b\n"
    "  engram-bench engine --weights bf16 model/zoo/mamba-english\n\n"
    "Flags:\n%s\n"
    "Exit codes: 0 done; 1 something could not be measured; 2 wrong use.\n";

struct Options {
  std::vector<std::string> models;
  BackendOptions backend;
  int64_t threads = 0;
  std::optional<WeightFormat> weights;
  std::vector<int32_t> rows;
  std::vector<int32_t> prompt_tokens;
  absl::Duration time = absl::Seconds(1);
  int64_t kv_memory = int64_t{1} << 30;
  bool json = false;
  bool help = false;
};

// Before anything is measured.
absl::Status CheckModels(const std::vector<std::string>& models) {
  const std::vector<std::string> shapes = RandomModelShapes();
  for (const std::string& model : models) {
    if (std::filesystem::is_directory(model)) continue;
    if (std::count(shapes.begin(), shapes.end(), model) > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("'", model, "' is neither a folder nor one of the shapes ",
                     absl::StrJoin(shapes, ", ")));
  }
  return absl::OkStatus();
}

absl::Status SetBackend(absl::string_view text, BackendKind* target) {
  const std::optional<BackendKind> kind = FindBackendKind(text);
  if (!kind.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not ", kBackendKindNames));
  }
  *target = *kind;
  return absl::OkStatus();
}

absl::Status SetWeights(absl::string_view text,
                        std::optional<WeightFormat>* target) {
  *target = FindWeightFormat(text);
  if (target->has_value()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is not ", kWeightFormatNames));
}

// "1,8,32", each from 1 to `most`.
FlagSet::Setter ListSetter(int32_t most, std::vector<int32_t>* target) {
  return [most, target](absl::string_view text) {
    target->clear();
    for (const absl::string_view part : absl::StrSplit(text, ',')) {
      int32_t value = 0;
      if (!absl::SimpleAtoi(part, &value) || value < 1 || value > most) {
        return absl::InvalidArgumentError(absl::StrCat(
            "'", part, "' is not a whole number from 1 to ", most));
      }
      target->push_back(value);
    }
    return absl::OkStatus();
  };
}

void AddFlags(Options* options, FlagSet* flags) {
  flags->Add("backend", "NAME",
             absl::StrCat(kBackendKindNames, " (default: auto)"),
             [options](absl::string_view text) {
               return SetBackend(text, &options->backend.kind);
             });
  flags->AddCount("threads", "of a CPU (default: as many as it has)", 1, 1024,
                  &options->threads);
  flags->Add("weights", "FORMAT",
             absl::StrCat(kWeightFormatNames,
                          " (default: a folder's as stored, bf16 of a shape)"),
             [options](absl::string_view text) {
               return SetWeights(text, &options->weights);
             });
  flags->Add("rows", "LIST",
             "sequences that decode together (default: 1,8,32, and 128,256 on "
             "a GPU)",
             ListSetter(1 << 12, &options->rows));
  flags->Add("prompt-tokens", "LIST",
             "lengths of prompts (default: 512, and 2048 on a GPU)",
             ListSetter(1 << 16, &options->prompt_tokens));
  flags->AddLimit("time", "measured at least so long (default: 1s)",
                  &options->time);
  flags->AddCount("kv-memory",
                  "bytes for keys and values of models with attention "
                  "(default: 1073741824)",
                  1, int64_t{1} << 40, &options->kv_memory);
  flags->AddSwitch("json", "print JSON", &options->json);
  flags->AddSwitch("help", "print this help", &options->help);
}

// What is measured of one model, or why it is not.
struct Result {
  std::string model;
  std::string weights;
  int64_t rows = 0;
  int64_t tokens = 0;  // of each row
  StepTimes times;
  double bytes = 0;       // that a decode step has to move
  double operations = 0;  // floating-point, of a prompt
  absl::Status status;

  double seconds() const { return absl::ToDoubleSeconds(times.median); }
  double tokens_per_second() const {
    return static_cast<double>(rows * tokens) / seconds();
  }
};

Json ProductLibraryJson(const ProductLibrary& library) {
  Json json = {{"summary", library.Summary()}, {"choices", Json::array()}};
  for (const ProductLibrary::Choice& choice : library.choices) {
    json["choices"].push_back({{"outputs", choice.outputs},
                               {"inputs", choice.inputs},
                               {"format", WeightFormatName(choice.format)},
                               {"tokens", choice.tokens},
                               {"accumulates", choice.accumulates},
                               {"tried", choice.tried},
                               {"found", choice.found}});
  }
  return json;
}

// One back end, whose copies were measured, and what was measured on it.
class EngineBench {
 public:
  EngineBench(const Options& options, std::unique_ptr<Backend> backend)
      : options_(options), backend_(std::move(backend)) {
    const bool is_device = backend_->name() != "cpu";
    if (options_.rows.empty()) options_.rows = {1, 8, 32};
    if (options.rows.empty() && is_device) options_.rows = {1, 8, 32, 128, 256};
    if (options_.prompt_tokens.empty()) options_.prompt_tokens = {512};
    if (options.prompt_tokens.empty() && is_device) {
      options_.prompt_tokens = {512, 2048};
    }
  }

  void Run() {
    Show("copies");
    const auto rate = MeasureCopyRate(kCopyBytes, backend_.get());
    if (rate.ok()) copy_rate_ = *rate;
    for (const std::string& model : options_.models) RunModel(model);
    display_.End();
  }

  std::string Text() const;
  std::string JsonText() const;
  bool failed() const {
    return std::any_of(
        results_.begin(), results_.end(),
        [](const Result& result) { return !result.status.ok(); });
  }

 private:
  // Far beyond any cache.
  static constexpr size_t kCopyBytes = size_t{512} << 20;

  void Show(const std::string& what) {
    display_.Show(absl::StrCat(kCommand, ": ", what));
  }
  absl::StatusOr<std::unique_ptr<ModelFolder>> Open(
      const std::string& model) const;
  ModelLimits Limits(int rows) const;
  absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& name,
                                              MemoryPlan* plan);
  void RunModel(const std::string& name);
  void Decode(const MemoryPlan& plan, const Result& about, Model* model);
  void Prefill(const Result& about, Model* model);

  Options options_;
  const std::unique_ptr<Backend> backend_;
  ProgressDisplay display_;
  double copy_rate_ = 0;  // bytes a second; 0: not measured
  std::vector<Result> results_;
};

absl::StatusOr<std::unique_ptr<ModelFolder>> EngineBench::Open(
    const std::string& model) const {
  if (std::filesystem::is_directory(model)) return ModelFolder::Open(model);
  // No type holds quantised weights: they are made of others.
  const WeightFormat format =
      options_.weights.value_or(WeightFormat::kBFloat16);
  return RandomModel(
      model, IsQuantised(format) ? DataType::kBFloat16 : StoredType(format));
}

ModelLimits EngineBench::Limits(int rows) const {
  ModelLimits limits;
  limits.slots = rows;
  limits.max_logits_rows = rows;
  limits.max_batch_tokens = rows;
  for (const int32_t tokens : options_.prompt_tokens) {
    limits.max_batch_tokens = std::max(limits.max_batch_tokens, tokens);
  }
  limits.kv_bytes = static_cast<size_t>(options_.kv_memory);
  limits.weight_format = options_.weights;
  return limits;
}

// With fewer rows where the most of them have no room.
absl::StatusOr<std::unique_ptr<Model>> EngineBench::Load(
    const std::string& name, MemoryPlan* plan) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<ModelFolder> folder,
                          Open(name));
  std::vector<int32_t> rows = options_.rows;
  std::sort(rows.begin(), rows.end());
  while (true) {
    const ModelLimits limits = Limits(rows.back());
    ENGRAM_ASSIGN_OR_RETURN(*plan, folder->Plan(*backend_, limits));
    auto model = folder->LoadModel(backend_.get(), limits, 0);
    if (!absl::IsResourceExhausted(model.status()) || rows.size() == 1) {
      return model;
    }
    rows.pop_back();
  }
}

void EngineBench::RunModel(const std::string& name) {
  Show(absl::StrCat(name, ": loading"));
  Result about;
  about.model = name;
  MemoryPlan plan;
  const auto model = Load(name, &plan);
  if (!model.ok()) {
    about.status = model.status();
    results_.push_back(about);
    return;
  }
  about.weights = (*model)->info().weight_format;
  Decode(plan, about, model->get());
  Prefill(about, model->get());
}

void EngineBench::Decode(const MemoryPlan& plan, const Result& about,
                         Model* model) {
  for (const int32_t rows : options_.rows) {
    Show(absl::StrCat(about.model, ": decoding ", rows, " rows"));
    Result result = about;
    result.rows = rows;
    result.tokens = 1;
    result.bytes = static_cast<double>(plan.weights) +
                   2.0 * rows * static_cast<double>(model->info().state_bytes);
    if (rows > model->limits().slots) {
      result.status = absl::ResourceExhaustedError(absl::StrCat(
          "no memory for the states of ", rows, " rows, ",
          rows * model->info().state_bytes, " bytes beside the weights"));
    } else {
      const auto times = MeasureDecode(rows, options_.time, model);
      result.status = times.status();
      if (times.ok()) result.times = *times;
    }
    results_.push_back(std::move(result));
  }
}

void EngineBench::Prefill(const Result& about, Model* model) {
  const ModelInfo& info = model->info();
  for (const int32_t tokens : options_.prompt_tokens) {
    Show(absl::StrCat(about.model, ": a prompt of ", tokens, " tokens"));
    Result result = about;
    result.rows = 1;
    result.tokens = tokens;
    result.operations =
        2.0 * static_cast<double>(tokens) *
        static_cast<double>(info.parameters -
                            info.vocabulary_size * info.d_model);
    const auto times = MeasurePrefill(tokens, options_.time, model);
    result.status = times.status();
    if (times.ok()) result.times = *times;
    results_.push_back(std::move(result));
  }
}

std::string EngineBench::Text() const {
  std::string text = absl::StrCat("back end: ", backend_->name());
  if (copy_rate_ > 0) {
    absl::StrAppend(&text, "; copies move ", Rate(copy_rate_, "B/s"));
  }
  if (const auto library = backend_->product_library()) {
    absl::StrAppend(&text, "; library of products: ", library->Summary());
  }
  absl::StrAppendFormat(&text, "\n\n%-16s %-8s %5s %6s %11s %10s %10s %10s\n",
                        "model", "weights", "rows", "tokens", "step ms",
                        "tokens/s", "of copies", "rate");
  for (const Result& result : results_) {
    if (!result.status.ok()) {
      absl::StrAppendFormat(&text, "%-16s %-8s %5d %6d  %s\n", result.model,
                            result.weights, result.rows, result.tokens,
                            result.status.message());
      continue;
    }
    absl::StrAppendFormat(&text, "%-16s %-8s %5d %6d %11.3f %10.0f",
                          result.model, result.weights, result.rows,
                          result.tokens, 1e3 * result.seconds(),
                          result.tokens_per_second());
    if (result.bytes > 0) {
      const double rate = result.bytes / result.seconds();
      const std::string share =
          copy_rate_ > 0 ? absl::StrFormat("%.1f %%", 100 * rate / copy_rate_)
                         : "-";
      absl::StrAppendFormat(&text, " %10s %10s\n", share, Rate(rate, "B/s"));
    } else {
      absl::StrAppendFormat(
          &text, " %10s %10s\n", "-",
          Rate(result.operations / result.seconds(), "FLOP/s"));
    }
  }
  return text;
}

std::string EngineBench::JsonText() const {
  Json json = {{"backend", backend_->name()},
               {"copy_bytes_per_second", nullptr}};
  if (copy_rate_ > 0) json["copy_bytes_per_second"] = copy_rate_;
  if (const auto library = backend_->product_library()) {
    json["product_library"] = ProductLibraryJson(*library);
  }
  json["results"] = Json::array();
  for (const Result& result : results_) {
    Json entry = {{"model", result.model},
                  {"weights", result.weights},
                  {"rows", result.rows},
                  {"tokens", result.tokens}};
    if (!result.status.ok()) {
      entry["error"] = std::string(result.status.message());
    } else {
      entry["steps"] = result.times.steps;
      entry["step_seconds"] = {
          {"median", result.seconds()},
          {"fastest", absl::ToDoubleSeconds(result.times.fastest)},
          {"slowest", absl::ToDoubleSeconds(result.times.slowest)}};
      entry["tokens_per_second"] = result.tokens_per_second();
      if (result.bytes > 0) entry["bytes"] = result.bytes;
      if (result.operations > 0) entry["operations"] = result.operations;
    }
    json["results"].push_back(std::move(entry));
  }
  return json.dump(2) + "\n";
}

}  // namespace

int RunEngineBench(const std::vector<std::string>& arguments) {
  Options options;
  FlagSet flags;
  AddFlags(&options, &flags);
  absl::StatusOr<std::vector<std::string>> models = flags.Parse(arguments);
  if (!models.ok()) return RefuseUse(kCommand, models.status().message());
  if (options.help) {
    Print(absl::StrFormat(kHelp, absl::StrJoin(RandomModelShapes(), "\n  "),
                          flags.Help()));
    return kExitOk;
  }
  options.models = *std::move(models);
  const absl::Status known = CheckModels(options.models);
  if (!known.ok()) return RefuseUse(kCommand, known.message());
  if (options.models.empty()) options.models = RandomModelShapes();
  options.backend.threads = static_cast<int>(options.threads);
  auto backend = MakeBackend(options.backend);
  if (!backend.ok()) {
    std::fprintf(stderr, "%s: %s\n", kCommand,
                 std::string(backend.status().message()).c_str());
    return kExitFailed;
  }
  EngineBench bench(options, *std::move(backend));
  bench.Run();
  Print(options.json ? bench.JsonText() : bench.Text());
  return bench.failed() ? kExitFailed : kExitOk;
}

}  // namespace engram::client

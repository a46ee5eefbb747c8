#include "clients/cpp/eval_tables.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cpp/eval_report.h"
#include "clients/cpp/eval_statistics.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

constexpr char kNothing[] = "-";

// --- What is measured, and what the papers print (accuracies in %).

struct H3Column {
  const char* title;
  const char* model;  // null: there is none.
  const char* paper;
};

struct H3Row {
  const char* title;
  EvalTask task;
  const char* paper_chance;
  std::vector<H3Column> columns;
};

// arXiv 2212.14052, with the settings of its code: vocabulary 20 and length 30,
// vocabulary 10 and length 20.
const std::vector<H3Row>& H3Rows() {
  static const auto* const rows =
      new std::vector<H3Row>{{"induction head",
                              EvalTask::kInductionHead,
                              "5.0",
                              {{"S4D", "s4d-induction", "35.6"},
                               {"H3", "h3-induction", "100.0"},
                               {"attention", "attention-induction", "100.0"},
                               {"Mamba", "mamba-induction-v20", kNothing},
                               {"Mamba-2", "mamba2-induction", kNothing}}},
                             {"associative recall",
                              EvalTask::kAssociativeRecall,
                              "25.0",
                              {{"S4D", "s4d-recall", "86.0"},
                               {"H3", "h3-recall", "99.8"},
                               {"attention", "attention-recall", "100.0"},
                               {"Mamba", "mamba-recall", kNothing},
                               {"Mamba-2", nullptr, kNothing}}}};
  return *rows;
}

struct MambaColumn {
  const char* title;
  const char* model;
  // Whether a token is more work the more have been read: fewer prompts are
  // asked then, and none beyond the longest that the paper's memory held.
  bool grows;
};

constexpr int64_t kVocabulary = 16;
constexpr int64_t kMinLength = int64_t{1} << 6;
constexpr int64_t kMaxLength = int64_t{1} << 20;
constexpr int64_t kMaxLengthOfAttention = int64_t{1} << 14;

// arXiv 2312.00752, section 4.1.2.
const std::vector<MambaColumn>& MambaColumns() {
  static const auto* const columns = new std::vector<MambaColumn>{
      {"Mamba", "mamba-induction-t256", false},
      {"Mamba, trained to 8,192", "mamba-induction", false},
      {"H3", "h3-induction-t256", false},
      {"attention", "attention-induction-t256", true}};
  return *columns;
}

// From 2^6 on; "-": out of memory.
const std::vector<std::pair<const char*, std::vector<const char*>>>&
MambaPaperColumns() {
  static const auto* const columns =
      new std::vector<std::pair<const char*, std::vector<const char*>>>{
          {"paper: Mamba", std::vector<const char*>(15, "100")},
          {"paper: H3",
           {"100", "100", "100", "80.9", "39.5", "23.8", "14.8", "8.2", "5.9",
            "6.6", "8.2", "4.7", "8.2", "6.3", "7.4"}},
          {"paper: MHA-RoPE",
           {"100", "100", "100", "83.6", "31.3", "18.4", "8.6", "9.0", "5.5",
            kNothing, kNothing, kNothing, kNothing, kNothing, kNothing}}};
  return *columns;
}

// --- Markdown.

using Rows = std::vector<std::vector<std::string>>;

// The first row is the head; the first column is text, the others are numbers.
std::string Markdown(const Rows& rows) {
  std::vector<size_t> widths;
  for (const std::vector<std::string>& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 4);
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (const std::vector<std::string>& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      absl::StrAppend(&text, i == 0 ? "| " : " | ", i == 0 ? row[i] : padding,
                      i == 0 ? padding : row[i]);
    }
    absl::StrAppend(&text, " |\n");
    if (&row != &rows.front()) continue;
    for (size_t i = 0; i < widths.size(); ++i) {
      absl::StrAppend(&text, i == 0 ? "| " : " | ",
                      std::string(widths[i] - 1, '-'), i == 0 ? "-" : ":");
    }
    absl::StrAppend(&text, " |\n");
  }
  return text;
}

std::string AccuracyCell(const EvalResult& result) {
  const Interval interval = WilsonInterval(result.right, result.count);
  return absl::StrCat(Percent(static_cast<double>(result.right) /
                              static_cast<double>(result.count)),
                      " (", Percent(interval.low), " to ",
                      Percent(interval.high), ")");
}

// --- Measuring.

// What the server has decided, as opposed to what went wrong.
bool IsRefusal(const absl::Status& status) {
  return absl::IsInvalidArgument(status) ||
         absl::IsFailedPrecondition(status) || absl::IsOutOfRange(status) ||
         absl::IsResourceExhausted(status);
}

// Measures cells, and keeps notes of those that stay empty.
class Measurer {
 public:
  Measurer(const TableOptions& options,
           absl::Span<const std::string> served_models,
           MeasureEvaluation measure)
      : options_(options), served_models_(served_models), measure_(measure) {}

  // Nothing for a cell that stays empty.
  absl::StatusOr<std::optional<EvalResult>> Measure(Evaluation evaluation) {
    const std::string& model = evaluation.model;
    if (std::find(served_models_.begin(), served_models_.end(), model) ==
        served_models_.end()) {
      if (std::find(missing_.begin(), missing_.end(), model) ==
          missing_.end()) {
        missing_.push_back(model);
      }
      return std::nullopt;
    }
    if (refused_[model]) return std::nullopt;
    evaluation.seed = options_.seed;
    evaluation.concurrency = options_.concurrency;
    absl::StatusOr<EvalResult> result = measure_(evaluation);
    if (result.ok()) return *result;
    if (!IsRefusal(result.status())) return result.status();
    // What is longer would be refused too.
    refused_[model] = true;
    Note(absl::StrCat("`", model, "` at length ",
                      WithCommas(evaluation.settings.length), ": ",
                      result.status().message(), "."));
    return std::nullopt;
  }

  void Note(const std::string& note) {
    if (std::find(notes_.begin(), notes_.end(), note) == notes_.end()) {
      notes_.push_back(note);
    }
  }

  // A paragraph after the table, if there is something to note.
  std::string NotesText() const {
    std::vector<std::string> notes;
    if (!missing_.empty()) {
      notes.push_back(
          absl::StrCat("Not served: `", absl::StrJoin(missing_, "`, `"), "`."));
    }
    notes.insert(notes.end(), notes_.begin(), notes_.end());
    if (notes.empty()) return "";
    return absl::StrCat("\nA \"-\" stands where nothing was measured. ",
                        absl::StrJoin(notes, " "), "\n");
  }

 private:
  const TableOptions& options_;
  const absl::Span<const std::string> served_models_;
  const MeasureEvaluation measure_;
  std::map<std::string, bool> refused_;
  std::vector<std::string> missing_;
  std::vector<std::string> notes_;
};

// --- The H3 paper's.

absl::Status AddH3Rows(const H3Row& row, const TableOptions& options,
                       Measurer* measurer, Rows* rows) {
  const TaskSettings settings = DefaultSettings(row.task);
  std::vector<std::string> here = {
      absl::StrCat(row.title, ", ", settings.vocabulary, " symbols, length ",
                   settings.length),
      "here", Percent(ChanceOf(settings))};
  std::vector<std::string> paper = {"", "H3 paper", row.paper_chance};
  for (const H3Column& column : row.columns) {
    paper.emplace_back(column.paper);
    here.emplace_back(kNothing);
    if (column.model == nullptr) continue;
    Evaluation evaluation;
    evaluation.model = column.model;
    evaluation.settings = settings;
    evaluation.count = options.count;
    ENGRAM_ASSIGN_OR_RETURN(const std::optional<EvalResult> result,
                            measurer->Measure(evaluation));
    if (result.has_value()) here.back() = AccuracyCell(*result);
  }
  rows->push_back(std::move(here));
  rows->push_back(std::move(paper));
  return absl::OkStatus();
}

absl::StatusOr<std::string> MakeH3Table(const TableOptions& options,
                                        Measurer* measurer) {
  Rows rows = {{"accuracy, %", "", "chance"}};
  for (const H3Column& column : H3Rows().front().columns) {
    rows.front().emplace_back(column.title);
  }
  for (const H3Row& row : H3Rows()) {
    ENGRAM_RETURN_IF_ERROR(AddH3Rows(row, options, measurer, &rows));
  }
  return absl::StrCat(
      "Two-layer models on the tasks of the H3 paper (arXiv 2212.14052): ",
      WithCommas(options.count), " prompts each, with 95 % intervals.\n\n",
      Markdown(rows), measurer->NotesText());
}

// --- The Mamba paper's.

struct MambaCells {
  std::vector<std::string> accuracy;
  std::vector<std::string> bytes;
};

// The work of a prompt by attention, in tokens of what does not grow: about as
// much up to the length of the training, then with the square.
int64_t GrowingWork(int64_t length) {
  constexpr int64_t kTrainedLength = 256;
  return std::max(length, length * (length / kTrainedLength));
}

absl::Status AddMambaCell(const MambaColumn& column, int64_t length,
                          const TableOptions& options, Measurer* measurer,
                          MambaCells* cells) {
  cells->accuracy.emplace_back(kNothing);
  cells->bytes.emplace_back(kNothing);
  if (column.grows && length > kMaxLengthOfAttention) {
    measurer->Note(absl::StrCat(
        "`", column.model, "` is not asked beyond ",
        WithCommas(kMaxLengthOfAttention),
        " symbols, as in the paper: its cache grows with every token, and so "
        "does the work per token."));
    return absl::OkStatus();
  }
  Evaluation evaluation;
  evaluation.model = column.model;
  evaluation.settings = {EvalTask::kInductionHead, kVocabulary, length};
  evaluation.count =
      options.CountAt(column.grows ? GrowingWork(length) : length);
  evaluation.through_session = true;
  ENGRAM_ASSIGN_OR_RETURN(const std::optional<EvalResult> result,
                          measurer->Measure(evaluation));
  if (!result.has_value()) return absl::OkStatus();
  cells->accuracy.back() = AccuracyCell(*result);
  if (result->count != options.CountAt(length)) {
    absl::StrAppend(&cells->accuracy.back(), " of ", result->count);
  }
  cells->bytes.back() = WithCommas(result->state_bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::string> MakeMambaTable(const TableOptions& options,
                                           Measurer* measurer) {
  Rows accuracy = {{"accuracy, %, at length", "prompts"}};
  Rows bytes = {{"bytes of a session at length"}};
  for (const MambaColumn& column : MambaColumns()) {
    accuracy.front().emplace_back(column.title);
    bytes.front().emplace_back(column.title);
  }
  for (const auto& [title, values] : MambaPaperColumns()) {
    accuracy.front().emplace_back(title);
  }
  size_t row = 0;
  for (int64_t length = kMinLength;
       length <= std::min(options.max_length, kMaxLength); length *= 2, ++row) {
    MambaCells cells;
    for (const MambaColumn& column : MambaColumns()) {
      ENGRAM_RETURN_IF_ERROR(
          AddMambaCell(column, length, options, measurer, &cells));
    }
    accuracy.push_back(
        {WithCommas(length), WithCommas(options.CountAt(length))});
    bytes.push_back({WithCommas(length)});
    const auto append = [](const std::vector<std::string>& more, Rows* rows) {
      rows->back().insert(rows->back().end(), more.begin(), more.end());
    };
    append(cells.accuracy, &accuracy);
    append(cells.bytes, &bytes);
    for (const auto& [title, values] : MambaPaperColumns()) {
      accuracy.back().emplace_back(values[row]);
    }
  }
  return absl::StrCat(
      "Two-layer models trained on the induction head at lengths up to 256 "
      "(one Mamba up to 8,192), ",
      kVocabulary, " symbols, asked at other lengths through sessions as in ",
      "the Mamba paper (arXiv 2312.00752), with 95 % intervals; chance is ",
      Percent(ChanceOf({EvalTask::kInductionHead, kVocabulary, kMinLength})),
      ".\n\n", Markdown(accuracy), "\nWhat one session takes:\n\n",
      Markdown(bytes), measurer->NotesText());
}

}  // namespace

absl::StatusOr<PaperTable> ParsePaperTable(absl::string_view name) {
  if (name == "h3-paper") return PaperTable::kH3Paper;
  if (name == "mamba-paper") return PaperTable::kMambaPaper;
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown table '", name, "'; known are h3-paper, mamba-paper"));
}

void TableOptions::AddTo(FlagSet* flags) {
  flags->AddServer("Default: $ENGRAM_SERVER, else localhost:8001.", &server);
  flags->AddTls(&tls);
  flags->AddCaller(&caller);
  flags->Add("count", "N",
             "Prompts per cell; of long ones fewer. Default: 1000.", &count);
  flags->Add("tokens-per-length", "N",
             "Of long prompts, as many as this many tokens make up. Default: "
             "2097152.",
             &tokens_per_length);
  flags->Add("least-count", "N", "But at least so many. Default: 16.",
             &least_count);
  flags->Add("max-length", "N",
             "mamba-paper: the longest prompts. Default: 1048576.",
             &max_length);
  flags->AddSeed("Of the prompts. Default: 1.", &seed);
  flags->Add("concurrency", "N", "Prompts at a time. Default: 8.",
             &concurrency);
  flags->AddSwitch("help", "Show this text.", &help);
}

absl::Status TableOptions::Check() const {
  if (least_count < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--least-count is ", least_count, ", it takes 1 or more"));
  }
  if (tokens_per_length < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--tokens-per-length is ", tokens_per_length, ", it takes 1 or more"));
  }
  if (max_length < kMinLength || max_length > kMaxLength) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-length is ", max_length, ", it takes ", kMinLength,
                     " to ", kMaxLength));
  }
  Evaluation evaluation;
  evaluation.settings = DefaultSettings(EvalTask::kInductionHead);
  evaluation.count = count;
  evaluation.concurrency = concurrency;
  return CheckEvaluation(evaluation);
}

int64_t TableOptions::CountAt(int64_t length) const {
  return std::min(count, std::max(least_count, tokens_per_length / length));
}

absl::StatusOr<std::string> MakePaperTable(
    PaperTable table, const TableOptions& options,
    absl::Span<const std::string> served_models, MeasureEvaluation measure) {
  Measurer measurer(options, served_models, measure);
  return table == PaperTable::kH3Paper ? MakeH3Table(options, &measurer)
                                       : MakeMambaTable(options, &measurer);
}

}  // namespace engram::client

// The tables of the two papers, measured on served models and printed beside
// the papers' own numbers, in Markdown.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "clients/cpp/client.h"
#include "clients/cpp/eval_options.h"
#include "clients/cpp/eval_run.h"
#include "clients/cpp/flags.h"

namespace engram::client {

enum class PaperTable {
  // Induction head and associative recall, by S4D, H3, attention and Mamba.
  kH3Paper,
  // Induction head at lengths 2^6 to 2^20 of models trained at 256, and what
  // their sessions take.
  kMambaPaper,
};

// "h3-paper" or "mamba-paper".
absl::StatusOr<PaperTable> ParsePaperTable(absl::string_view name);

struct TableOptions {
  void AddTo(FlagSet* flags);

  // Errors: INVALID_ARGUMENT with the value and its limit.
  absl::Status Check() const;

  // Prompts to ask at a length: as many as `tokens_per_length` pays for, but at
  // least `least_count`, and never more than `count`.
  int64_t CountAt(int64_t length) const;

  std::string server = DefaultServer();
  TlsOptions tls = DefaultTls();
  CallerOptions caller = DefaultCaller();
  int64_t count = 1000;
  int64_t least_count = 16;
  int64_t tokens_per_length = int64_t{1} << 21;
  int64_t max_length = int64_t{1} << 20;
  uint64_t seed = 1;
  int64_t concurrency = 8;
  bool help = false;
};

// Runs one evaluation.
using MeasureEvaluation =
    absl::FunctionRef<absl::StatusOr<EvalResult>(const Evaluation&)>;

// Measures all cells of a table, one after the other. A model that is not
// served, and what the server refuses, is a "-" in the table and a note below
// it; any other error ends it.
absl::StatusOr<std::string> MakePaperTable(
    PaperTable table, const TableOptions& options,
    absl::Span<const std::string> served_models, MeasureEvaluation measure);

}  // namespace engram::client

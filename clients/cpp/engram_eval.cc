// engram-eval: asks served models the questions of the papers' tasks.
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cpp/cancellation.h"
#include "clients/cpp/client.h"
#include "clients/cpp/eval_options.h"
#include "clients/cpp/eval_report.h"
#include "clients/cpp/eval_run.h"
#include "clients/cpp/eval_tables.h"
#include "clients/cpp/flags.h"
#include "clients/cpp/interrupt.h"
#include "clients/cpp/program.h"
#include "clients/cpp/progress_display.h"
#include "clients/cpp/resumable_turn.h"
#include "tools/shell/standard_output.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

constexpr char kProgram[] = "engram-eval";

constexpr char kHelp[] =
    "engram-eval: asks a served model the questions of a task, and tells how\n"
    "many of its answers are right, with the 95 %% interval.\n\n"
    "  induction-head      random symbols, one \"=>\" among them and one at "
    "the\n"
    "                      end: what followed the first one?\n"
    "                        3 1 => 7 0 12 5 =>           answer: 7\n"
    "  associative-recall  pairs of key and value, then a key that was there:\n"
    "                      which value has it?\n"
    "                        2 6 0 4 2 6 3 5 => 0         answer: 4\n\n"
    "The symbols are \"=>\", \".\" and the numbers from 0, one token each. An\n"
    "answer is the one token that is likeliest after the prompt.\n\n"
    "Usage: engram-eval --task NAME [flags]\n"
    "       engram-eval table NAME [flags]     a table of a paper, see\n"
    "                                          engram-eval table --help\n"
    "       engram-eval --version\n\n"
    "Examples:\n"
    "  engram-eval --model mamba-induction --task induction-head "
    "--vocabulary 16\n"
    "  engram-eval --model h3-recall --task associative-recall --count 5000\n"
    "  engram-eval --model mamba-induction --task induction-head "
    "--vocabulary 16 \\\n"
    "    --length 65536 --count 20 --through-session --json\n\n"
    "Flags:\n%s\n"
    "Ctrl-C ends it early and still reports.\n\n"
    "Exit codes: 0 done; 1 the server refused or failed; 2 wrong use; 130\n"
    "interrupted.\n";

constexpr char kTableHelp[] =
    "engram-eval table: measures a table of a paper on the served models, and\n"
    "prints it in Markdown beside the paper's own numbers.\n\n"
    "  h3-paper     induction head and associative recall by S4D, H3,\n"
    "               attention and Mamba\n"
    "  mamba-paper  the induction head at lengths 2^6 to 2^20 by models that\n"
    "               were trained at 256, and what their sessions take\n\n"
    "Usage: engram-eval table h3-paper|mamba-paper [flags]\n\n"
    "Examples:\n"
    "  engram-eval table h3-paper\n"
    "  engram-eval table mamba-paper --max-length 4096 --count 50\n\n"
    "Flags:\n%s\n"
    "Exit codes: 0 done; 1 the server failed; 2 wrong use; 130 interrupted.\n";

absl::StatusOr<EvalResult> Evaluate(const Evaluation& evaluation,
                                    Client* client, ProgressDisplay* display,
                                    Cancellation* cancellation) {
  // Also if they are not needed: a model without them would answer, and wrong.
  EvalRun run;
  ENGRAM_ASSIGN_OR_RETURN(
      run.symbol_ids,
      FindSymbolIds(evaluation.model, evaluation.settings.vocabulary, client,
                    {.cancellation = cancellation}));
  run.evaluation = evaluation;
  run.session_prefix = absl::StrCat("eval-", FreshId().substr(0, 8));
  run.progress_interval = display->interval();
  run.on_progress = [&](const EvalProgress& progress) {
    display->Show(EvalProgressLine(evaluation, progress));
  };
  absl::StatusOr<EvalResult> result = RunEvaluation(run, client, cancellation);
  display->End();
  if (result.ok() && result->sessions_left > 0) {
    absl::FPrintF(stderr, "engram-eval: %d sessions were left on the server\n",
                  result->sessions_left);
  }
  return result;
}

// Also finds out which model is meant if none is named.
absl::StatusOr<EvalResult> EvaluateModel(Evaluation* evaluation, Client* client,
                                         Cancellation* cancellation) {
  v1::GetModelRequest request;
  request.set_model(evaluation->model);
  ENGRAM_ASSIGN_OR_RETURN(
      const v1::ModelInfo model,
      client->GetModel(request, {.cancellation = cancellation}));
  evaluation->model = model.name();
  ProgressDisplay display;
  return Evaluate(*evaluation, client, &display, cancellation);
}

int RunTask(EvalOptions options, Interrupt* interrupt) {
  WarnOfCaller(kProgram, options.caller);
  Client client(
      {.server = options.server, .tls = options.tls, .caller = options.caller});
  Cancellation cancellation;
  InterruptScope scope(interrupt, &cancellation);
  Evaluation& evaluation = options.evaluation;
  const absl::StatusOr<EvalResult> result =
      EvaluateModel(&evaluation, &client, &cancellation);
  if (!result.ok()) {
    return cancellation.cancelled()
               ? kExitInterrupted
               : ReportFailedCall(kProgram, kProgram, result.status(),
                                  options.server);
  }
  const std::string report =
      options.json
          ? absl::StrCat(EvalReportJson(options.server, evaluation, *result),
                         "\n")
          : EvalReportText(options.server, evaluation, *result);
  Print(report);
  return cancellation.cancelled() ? kExitInterrupted : kExitOk;
}

absl::StatusOr<std::string> MeasureTable(PaperTable table,
                                         const TableOptions& options,
                                         Client* client,
                                         Cancellation* cancellation) {
  ENGRAM_ASSIGN_OR_RETURN(const v1::ListModelsResponse models,
                          client->ListModels({.cancellation = cancellation}));
  std::vector<std::string> names;
  for (const v1::ModelInfo& model : models.models()) {
    names.push_back(model.name());
  }
  ProgressDisplay display;
  return MakePaperTable(
      table, options, names,
      [&](const Evaluation& evaluation) -> absl::StatusOr<EvalResult> {
        ENGRAM_ASSIGN_OR_RETURN(
            EvalResult result,
            Evaluate(evaluation, client, &display, cancellation));
        if (cancellation->cancelled()) return absl::CancelledError("");
        // One line stays for each cell.
        display.Show(
            EvalProgressLine(evaluation, {result.seconds, result.count,
                                          result.right, result.prompt_tokens}));
        display.End();
        return result;
      });
}

int RunTable(PaperTable table, const TableOptions& options,
             Interrupt* interrupt) {
  WarnOfCaller(kProgram, options.caller);
  Client client(
      {.server = options.server, .tls = options.tls, .caller = options.caller});
  Cancellation cancellation;
  InterruptScope scope(interrupt, &cancellation);
  const absl::StatusOr<std::string> text =
      MeasureTable(table, options, &client, &cancellation);
  if (cancellation.cancelled()) return kExitInterrupted;
  if (!text.ok()) {
    return ReportFailedCall(kProgram, kProgram, text.status(), options.server);
  }
  Print(*text);
  return kExitOk;
}

int TableMain(absl::Span<const std::string> arguments, Interrupt* interrupt) {
  TableOptions options;
  FlagSet flags;
  options.AddTo(&flags);
  const absl::StatusOr<std::vector<std::string>> others =
      flags.Parse(arguments);
  if (!others.ok()) return RefuseUse(kProgram, others.status().message());
  if (options.help) {
    Print(absl::StrFormat(kTableHelp, flags.Help()));
    return kExitOk;
  }
  if (others->size() != 1) {
    return RefuseUse(kProgram,
                     "which table? give one: h3-paper or mamba-paper");
  }
  const absl::StatusOr<PaperTable> table = ParsePaperTable(others->front());
  if (!table.ok()) return RefuseUse(kProgram, table.status().message());
  const absl::Status status = options.Check();
  if (!status.ok()) return RefuseUse(kProgram, status.message());
  return RunTable(*table, options, interrupt);
}

int Main(const std::vector<std::string>& arguments) {
  Interrupt interrupt;
  if (!arguments.empty() && arguments.front() == "table") {
    return TableMain(absl::MakeSpan(arguments).subspan(1), &interrupt);
  }
  EvalOptions options;
  FlagSet flags;
  options.AddTo(&flags);
  const absl::StatusOr<std::vector<std::string>> others =
      flags.Parse(arguments);
  if (!others.ok()) return RefuseUse(kProgram, others.status().message());
  if (options.help) {
    Print(absl::StrFormat(kHelp, flags.Help()));
    return kExitOk;
  }
  if (!others->empty()) {
    return RefuseUse(
        kProgram, absl::StrCat("unexpected argument '", others->front(), "'"));
  }
  const absl::Status status = options.Complete();
  if (!status.ok()) return RefuseUse(kProgram, status.message());
  return RunTask(std::move(options), &interrupt);
}

}  // namespace
}  // namespace engram::client

int main(int argc, char** argv) {
  return engram::client::RunClientProgram(engram::client::kProgram, argc, argv,
                                          engram::client::Main);
}

#include "clients/cpp/eval_options.h"

#include "absl/strings/str_cat.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

constexpr int64_t kCountMax = 10'000'000;
constexpr int64_t kConcurrencyMax = 256;
constexpr int64_t kTurnTokensMax = int64_t{1} << 20;

absl::Status CheckFlag(absl::string_view flag, int64_t value, int64_t most) {
  if (value >= 1 && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is ", value, ", it takes 1 to ", most));
}

}  // namespace

absl::Status CheckEvaluation(const Evaluation& evaluation) {
  ENGRAM_RETURN_IF_ERROR(CheckSettings(evaluation.settings));
  ENGRAM_RETURN_IF_ERROR(CheckFlag("count", evaluation.count, kCountMax));
  ENGRAM_RETURN_IF_ERROR(
      CheckFlag("concurrency", evaluation.concurrency, kConcurrencyMax));
  return CheckFlag("turn-tokens", evaluation.turn_tokens, kTurnTokensMax);
}

void EvalOptions::AddTo(FlagSet* flags) {
  flags->AddServer("Default: $ENGRAM_SERVER, else localhost:8001.", &server);
  flags->AddTls(&tls);
  flags->AddCaller(&caller);
  flags->Add("model", "NAME", "Default: the only one served.",
             &evaluation.model);
  flags->Add("task", "NAME", "induction-head or associative-recall.", &task);
  flags->Add("vocabulary", "N",
             "Symbols of the task, \"=>\" and \".\" among them. Default: 20; "
             "associative-recall 10.",
             &vocabulary);
  flags->Add("length", "N",
             "Random symbols before the question, up to 1048576. Default: 30; "
             "associative-recall 20.",
             &length);
  flags->Add("count", "N", "Prompts to ask. Default: 1000.", &evaluation.count);
  flags->AddSeed(
      "Of the prompts: the same seed asks the same ones. Default: 1.",
      &evaluation.seed);
  flags->Add("concurrency", "N", "Prompts at a time. Default: 8.",
             &evaluation.concurrency);
  flags->AddSwitch("through-session",
                   "Feed each prompt in turns on a session of its own, which "
                   "is deleted in the end, and tell how many bytes its state "
                   "takes.",
                   &evaluation.through_session);
  flags->Add("turn-tokens", "N",
             "Tokens of such a turn at most. Default: 65536.",
             &evaluation.turn_tokens);
  flags->AddSwitch("json", "Print one JSON object with everything.", &json);
  flags->AddSwitch("help", "Show this text.", &help);
}

absl::Status EvalOptions::Complete() {
  if (task.empty()) {
    return absl::InvalidArgumentError(
        "which task? give --task induction-head or --task associative-recall");
  }
  ENGRAM_ASSIGN_OR_RETURN(const EvalTask parsed, ParseEvalTask(task));
  evaluation.settings = DefaultSettings(parsed);
  if (vocabulary.has_value()) evaluation.settings.vocabulary = *vocabulary;
  if (length.has_value()) evaluation.settings.length = *length;
  return CheckEvaluation(evaluation);
}

}  // namespace engram::client

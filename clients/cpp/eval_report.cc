#include "clients/cpp/eval_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cpp/eval_statistics.h"

namespace engram::client {
namespace {

using Json = nlohmann::ordered_json;

double Rate(int64_t right, int64_t count) {
  return count > 0 ? static_cast<double>(right) / static_cast<double>(count)
                   : 0;
}

double PerSecond(double amount, double seconds) {
  return seconds > 0 ? amount / seconds : 0;
}

}  // namespace

std::string Percent(double rate) {
  double tenths = rate * 1000;
  if (rate > 0 && rate < 1) tenths = std::clamp(tenths, 1.0, 999.0);
  return absl::StrFormat("%.1f", tenths / 10);
}

std::string WithCommas(int64_t number) {
  const std::string digits = absl::StrCat(number);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text.push_back(',');
    text.push_back(digits[i]);
  }
  return text;
}

std::string EvalReportText(const std::string& server,
                           const Evaluation& evaluation,
                           const EvalResult& result) {
  const TaskSettings& settings = evaluation.settings;
  const Interval interval = WilsonInterval(result.right, result.count);
  std::string text = absl::StrFormat(
      "%s at %s: %s, vocabulary %d, length %d, seed %d\n"
      "accuracy %s %% (%d of %d right), 95 %% interval %s to %s, chance %s\n"
      "%.1f s, %.0f prompt tokens/s\n",
      evaluation.model, server, ToString(settings.task), settings.vocabulary,
      settings.length, evaluation.seed,
      Percent(Rate(result.right, result.count)), result.right, result.count,
      Percent(interval.low), Percent(interval.high),
      Percent(ChanceOf(settings)), result.seconds,
      PerSecond(static_cast<double>(result.prompt_tokens), result.seconds));
  if (evaluation.through_session) {
    absl::StrAppend(&text, "a session that has read a prompt takes ",
                    WithCommas(result.state_bytes), " bytes\n");
  }
  if (result.count < evaluation.count) {
    absl::StrAppend(&text, "interrupted: ", evaluation.count - result.count,
                    " prompts were not asked\n");
  }
  return text;
}

std::string EvalReportJson(const std::string& server,
                           const Evaluation& evaluation,
                           const EvalResult& result) {
  const TaskSettings& settings = evaluation.settings;
  const Interval interval = WilsonInterval(result.right, result.count);
  const Json report = {
      {"parameters",
       {{"server", server},
        {"model", evaluation.model},
        {"task", std::string(ToString(settings.task))},
        {"vocabulary", settings.vocabulary},
        {"length", settings.length},
        {"count", evaluation.count},
        {"seed", evaluation.seed},
        {"concurrency", evaluation.concurrency},
        {"through_session", evaluation.through_session},
        {"turn_tokens", evaluation.turn_tokens}}},
      {"count", result.count},
      {"right", result.right},
      {"accuracy", Rate(result.right, result.count)},
      {"interval_low", interval.low},
      {"interval_high", interval.high},
      {"chance", ChanceOf(settings)},
      {"seconds", result.seconds},
      {"prompt_tokens", result.prompt_tokens},
      {"prompt_tokens_per_second",
       PerSecond(static_cast<double>(result.prompt_tokens), result.seconds)},
      {"state_bytes",
       evaluation.through_session ? Json(result.state_bytes) : Json(nullptr)},
  };
  // The names come from outside: broken UTF-8 in them is replaced.
  return report.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string EvalProgressLine(const Evaluation& evaluation,
                             const EvalProgress& progress) {
  return absl::StrFormat(
      "%6.0f s: %s, %s, length %d: %d of %d answered, %d right, %.0f "
      "tokens/s",
      progress.seconds, evaluation.model, ToString(evaluation.settings.task),
      evaluation.settings.length, progress.asked, evaluation.count,
      progress.right,
      PerSecond(static_cast<double>(progress.tokens), progress.seconds));
}

}  // namespace engram::client

#include "clients/cpp/bench_report.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace engram::client {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no infinity: what is not limited is null.
Json LimitOrNull(double limit) {
  return std::isfinite(limit) ? Json(limit) : Json(nullptr);
}

Json SecondsOrNull(absl::Duration duration) {
  return LimitOrNull(absl::ToDoubleSeconds(duration));
}

Json ToJson(const Distribution& distribution) {
  return {{"count", distribution.count}, {"mean", distribution.mean},
          {"p50", distribution.p50},     {"p90", distribution.p90},
          {"p99", distribution.p99},     {"max", distribution.max}};
}

Json ParametersToJson(const BenchOptions& options) {
  return {
      {"server", options.server},
      {"model", options.model},
      {"rate", options.rate},
      {"concurrency", options.concurrency},
      {"requests", options.requests},
      {"duration_seconds", SecondsOrNull(options.duration)},
      {"warmup", options.warm_up},
      {"prompt_tokens", ToString(options.prompt_tokens)},
      {"output_tokens", ToString(options.output_tokens)},
      {"long_prompts", options.long_prompts},
      {"long_prompt_tokens", ToString(options.long_prompt_tokens)},
      {"sessions", options.sessions},
      {"turns", options.turns},
      {"think_time_seconds", SecondsOrNull(options.think_time)},
      {"temperature", options.temperature},
      {"seed", options.seed},
      {"connections", options.connections},
      {"deadline_seconds", SecondsOrNull(options.deadline)},
      {"goodput_ttft_ms", LimitOrNull(options.goodput.time_to_first_token_ms)},
      {"goodput_itl_ms", LimitOrNull(options.goodput.inter_token_latency_ms)},
      {"goodput_e2e_ms", LimitOrNull(options.goodput.end_to_end_ms)},
  };
}

std::string TableRow(absl::string_view name, const Distribution& distribution) {
  if (distribution.count == 0) return absl::StrFormat("%-24s %9s\n", name, "-");
  return absl::StrFormat("%-24s %9.2f %9.2f %9.2f %9.2f %9.2f\n", name,
                         distribution.mean, distribution.p50, distribution.p90,
                         distribution.p99, distribution.max);
}

bool HasLimits(const GoodputLimits& limits) {
  return std::isfinite(limits.time_to_first_token_ms) ||
         std::isfinite(limits.inter_token_latency_ms) ||
         std::isfinite(limits.end_to_end_ms);
}

}  // namespace

std::string ReportText(const BenchOptions& options,
                       const Measurements& measurements) {
  std::string text =
      absl::StrFormat("%s at %s: %d requests in %.2f s, %d succeeded",
                      options.model, options.server, measurements.requests,
                      measurements.seconds, measurements.succeeded);
  if (measurements.interrupted > 0) {
    absl::StrAppend(&text, ", ", measurements.interrupted, " interrupted");
  }
  absl::StrAppendFormat(&text, "\n\n%-24s %9s %9s %9s %9s %9s\n",
                        "milliseconds", "mean", "p50", "p90", "p99", "max");
  absl::StrAppend(
      &text, TableRow("time to first token", measurements.time_to_first_token),
      TableRow("inter-token latency", measurements.inter_token_latency),
      TableRow("end to end", measurements.end_to_end),
      TableRow("sent after it was due", measurements.start_delay));
  absl::StrAppendFormat(
      &text, "\nrequests/s %.2f, prompt tokens/s %.1f, output tokens/s %.1f\n",
      measurements.PerSecond(measurements.succeeded),
      measurements.PerSecond(measurements.prompt_tokens),
      measurements.PerSecond(measurements.output_tokens));
  if (HasLimits(options.goodput)) {
    absl::StrAppendFormat(&text, "goodput %.2f requests/s (%d of %d)\n",
                          measurements.PerSecond(measurements.good),
                          measurements.good, measurements.requests);
  }
  if (options.long_prompts > 0) {
    absl::StrAppendFormat(
        &text, "beside %d prompts of %s tokens at a time: %d answered%s\n",
        options.long_prompts, ToString(options.long_prompt_tokens),
        measurements.long_prompts,
        measurements.long_prompts_failed == 0
            ? ""
            : absl::StrFormat(", %d failed, first: %s",
                              measurements.long_prompts_failed,
                              measurements.long_prompt_error.ToString(
                                  absl::StatusToStringMode::kWithNoExtraData)));
  }
  for (const auto& [code, count] : measurements.errors) {
    absl::StrAppend(&text, "error ", code, ": ", count,
                    " requests, first: ", measurements.error_messages.at(code),
                    "\n");
  }
  return text;
}

std::string ReportJson(const BenchOptions& options,
                       const Measurements& measurements) {
  Json errors = Json::object();
  for (const auto& [code, count] : measurements.errors) errors[code] = count;
  Json messages = Json::object();
  for (const auto& [code, message] : measurements.error_messages) {
    messages[code] = message;
  }
  const Json report = {
      {"parameters", ParametersToJson(options)},
      {"seconds", measurements.seconds},
      {"requests", measurements.requests},
      {"succeeded", measurements.succeeded},
      {"failed", measurements.requests - measurements.succeeded},
      {"interrupted", measurements.interrupted},
      {"errors", errors},
      {"error_messages", messages},
      {"time_to_first_token_ms", ToJson(measurements.time_to_first_token)},
      {"inter_token_latency_ms", ToJson(measurements.inter_token_latency)},
      {"end_to_end_ms", ToJson(measurements.end_to_end)},
      {"start_delay_ms", ToJson(measurements.start_delay)},
      {"prompt_tokens", measurements.prompt_tokens},
      {"output_tokens", measurements.output_tokens},
      {"requests_per_second", measurements.PerSecond(measurements.succeeded)},
      {"prompt_tokens_per_second",
       measurements.PerSecond(measurements.prompt_tokens)},
      {"output_tokens_per_second",
       measurements.PerSecond(measurements.output_tokens)},
      {"long_prompts_answered", measurements.long_prompts},
      {"long_prompt_tokens_answered", measurements.long_prompt_tokens},
      {"long_prompts_failed", measurements.long_prompts_failed},
      {"good_requests", measurements.good},
      {"goodput_requests_per_second",
       measurements.PerSecond(measurements.good)},
  };
  // Messages come from the server: broken UTF-8 in them is replaced.
  return report.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ProgressLine(const BenchProgress& before,
                         const BenchProgress& now) {
  const double seconds = now.seconds - before.seconds;
  const double tokens_per_second =
      seconds > 0
          ? static_cast<double>(now.output_tokens - before.output_tokens) /
                seconds
          : 0;
  return absl::StrFormat(
      "%6.0f s: %d started, %d running, %d done, %d failed, %.0f tokens/s",
      now.seconds, now.started, now.running, now.succeeded, now.failed,
      tokens_per_second);
}

}  // namespace engram::client

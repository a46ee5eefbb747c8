#include "clients/cpp/bench_measurements.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace engram::client {
namespace {

double Milliseconds(SteadyClock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

bool IsGood(const TurnRecord& turn, const GoodputLimits& limits) {
  if (Milliseconds(turn.end - turn.intended_start) > limits.end_to_end_ms) {
    return false;
  }
  if (turn.tokens.empty()) return true;
  if (Milliseconds(turn.tokens.front() - turn.intended_start) >
      limits.time_to_first_token_ms) {
    return false;
  }
  if (turn.tokens.size() < 2) return true;
  const double mean_gap =
      Milliseconds(turn.tokens.back() - turn.tokens.front()) /
      static_cast<double>(turn.tokens.size() - 1);
  return mean_gap <= limits.inter_token_latency_ms;
}

// The samples of all turns, before they are described.
struct Samples {
  void Add(const TurnRecord& turn) {
    end_to_end.push_back(Milliseconds(turn.end - turn.intended_start));
    start_delay.push_back(Milliseconds(turn.sent - turn.intended_start));
    if (turn.tokens.empty()) return;
    first_token.push_back(
        Milliseconds(turn.tokens.front() - turn.intended_start));
    for (size_t i = 1; i < turn.tokens.size(); ++i) {
      gaps.push_back(Milliseconds(turn.tokens[i] - turn.tokens[i - 1]));
    }
  }

  std::vector<double> first_token;
  std::vector<double> gaps;
  std::vector<double> end_to_end;
  std::vector<double> start_delay;
};

void MeasureBeside(const TurnRecord& turn, Measurements* result) {
  if (turn.interrupted) return;
  if (turn.status.ok()) {
    ++result->long_prompts;
    result->long_prompt_tokens += turn.prompt_tokens;
    return;
  }
  ++result->long_prompts_failed;
  result->long_prompt_error.Update(turn.status);
}

}  // namespace

double Measurements::PerSecond(int64_t count) const {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

double Percentile(absl::Span<const double> sorted, double fraction) {
  const double rank = fraction * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(std::floor(rank));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above],
                   rank - static_cast<double>(below));
}

Distribution Describe(std::vector<double> samples) {
  Distribution result;
  if (samples.empty()) return result;
  std::sort(samples.begin(), samples.end());
  result.count = samples.size();
  result.mean = std::accumulate(samples.begin(), samples.end(), 0.0) /
                static_cast<double>(samples.size());
  result.p50 = Percentile(samples, 0.50);
  result.p90 = Percentile(samples, 0.90);
  result.p99 = Percentile(samples, 0.99);
  result.max = samples.back();
  return result;
}

Measurements Measure(absl::Span<const TurnRecord> turns,
                     const GoodputLimits& limits) {
  Measurements result;
  Samples samples;
  auto begin = SteadyClock::time_point::max();
  auto end = SteadyClock::time_point::min();
  for (const TurnRecord& turn : turns) {
    if (turn.beside) {
      MeasureBeside(turn, &result);
      continue;
    }
    if (turn.warm_up) continue;
    begin = std::min(begin, turn.intended_start);
    end = std::max(end, turn.end);
    result.output_tokens += static_cast<int64_t>(turn.tokens.size());
    if (turn.interrupted) {
      ++result.interrupted;
      continue;
    }
    ++result.requests;
    if (!turn.status.ok()) {
      const std::string name = absl::StatusCodeToString(turn.status.code());
      ++result.errors[name];
      result.error_messages.emplace(name, turn.status.message());
      continue;
    }
    ++result.succeeded;
    result.prompt_tokens += turn.prompt_tokens;
    result.good += IsGood(turn, limits);
    samples.Add(turn);
  }
  if (begin < end) {
    result.seconds = std::chrono::duration<double>(end - begin).count();
  }
  result.time_to_first_token = Describe(std::move(samples.first_token));
  result.inter_token_latency = Describe(std::move(samples.gaps));
  result.end_to_end = Describe(std::move(samples.end_to_end));
  result.start_delay = Describe(std::move(samples.start_delay));
  return result;
}

}  // namespace engram::client

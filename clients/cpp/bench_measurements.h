// From what was measured of each turn to the figures of a report.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace engram::client {

using SteadyClock = std::chrono::steady_clock;

// One turn, as the load generator saw it.
struct TurnRecord {
  // When the turn was due. All latencies count from here: a turn that started
  // late because the generator or the connection was busy is late for its user.
  SteadyClock::time_point intended_start;
  SteadyClock::time_point sent;
  SteadyClock::time_point end;
  std::vector<SteadyClock::time_point> tokens;  // When each one came.
  int64_t prompt_tokens = 0;
  absl::Status status;
  // Before the figures begin.
  bool warm_up = false;
  // A long prompt that ran beside what is measured.
  bool beside = false;
  // Ended by Ctrl-C, or beside when all else was over: neither a success nor an
  // error of the server's.
  bool interrupted = false;
};

// Limits that a turn must keep to count as good. The inter-token latency of a
// turn is its mean: the time from its first to its last token, by the gaps.
struct GoodputLimits {
  static constexpr double kNone = std::numeric_limits<double>::infinity();
  double time_to_first_token_ms = kNone;
  double inter_token_latency_ms = kNone;
  double end_to_end_ms = kNone;
};

// Milliseconds.
struct Distribution {
  size_t count = 0;
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double max = 0;
};

// All of it without the warm-up.
struct Measurements {
  // From the first intended start to the last end.
  double seconds = 0;
  int64_t requests = 0;  // Without the interrupted ones.
  int64_t succeeded = 0;
  int64_t interrupted = 0;
  std::map<std::string, int64_t> errors;              // By name of the code.
  std::map<std::string, std::string> error_messages;  // The first of each code.

  // Of turns that succeeded.
  Distribution time_to_first_token;
  Distribution inter_token_latency;  // Over all gaps of all turns.
  Distribution end_to_end;
  // How late the generator sent them: above a millisecond or so, it or its
  // connections are the bottleneck.
  Distribution start_delay;
  int64_t prompt_tokens = 0;
  // Of all turns: they were made, even if the turn failed later.
  int64_t output_tokens = 0;
  int64_t good = 0;
  // Of the long prompts beside, those that were answered by then.
  int64_t long_prompts = 0;
  int64_t long_prompt_tokens = 0;
  // Those that ended with an error: the load beside was smaller then.
  int64_t long_prompts_failed = 0;
  absl::Status long_prompt_error;  // The first one.

  double PerSecond(int64_t count) const;
};

// The value below which `fraction` of the samples lie, interpolated linearly
// between the two nearest ones (as numpy.percentile does by default).
// REQUIRES: `sorted` is sorted and not empty; 0 <= fraction <= 1.
double Percentile(absl::Span<const double> sorted, double fraction);

// All zero if there are no samples.
Distribution Describe(std::vector<double> samples);

Measurements Measure(absl::Span<const TurnRecord> turns,
                     const GoodputLimits& limits);

}  // namespace engram::client

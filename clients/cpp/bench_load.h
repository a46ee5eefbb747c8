// Makes the load: starts turns when they are due, on gRPC's callback API, and
// records what became of each.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cpp/bench_measurements.h"
#include "clients/cpp/bench_options.h"
#include "clients/cpp/cancellation.h"

namespace engram::client {

// How far the load is, warm-up included.
struct BenchProgress {
  double seconds = 0;
  int64_t started = 0;
  int64_t running = 0;
  int64_t succeeded = 0;
  int64_t failed = 0;
  int64_t output_tokens = 0;
};

struct BenchLoad {
  // What the requests go to; `options` is complete.
  BenchOptions options;
  int64_t vocabulary_size = 0;
  // Begins the ids of the sessions.
  std::string session_prefix;
  // Called in the thread of RunLoad() as often as this.
  absl::Duration progress_interval = absl::Seconds(1);
  std::function<void(const BenchProgress&)> on_progress;
};

struct LoadResult {
  std::vector<TurnRecord> turns;
  std::vector<std::string> session_ids;  // Those that may exist now.
};

// Runs the load to its end, or until `cancellation`, which ends what runs.
// INVALID_ARGUMENT is that of OpenChannel().
absl::StatusOr<LoadResult> RunLoad(const BenchLoad& load,
                                   Cancellation* cancellation);

}  // namespace engram::client

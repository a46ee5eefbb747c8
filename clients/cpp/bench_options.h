// The flags of `engram-bench`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "clients/cpp/bench_measurements.h"
#include "clients/cpp/bench_workload.h"
#include "clients/cpp/client.h"
#include "clients/cpp/flags.h"

namespace engram::client {

// A conversation is what arrives: one request without memory, or with
// --sessions the turns of one session, one after the other.
struct BenchOptions {
  void AddTo(FlagSet* flags);

  // Fills in what follows from other flags. Errors: INVALID_ARGUMENT with what
  // does not go together.
  absl::Status Complete();

  // Conversations to measure; the largest number there is with --duration only.
  int64_t Conversations() const;

  std::string server = DefaultServer();
  TlsOptions tls = DefaultTls();
  CallerOptions caller = DefaultCaller();
  std::string model;
  double rate = 0;          // Conversations a second; 0: closed loop.
  int64_t concurrency = 0;  // Conversations at a time; 0: open loop.
  int64_t requests = 0;
  absl::Duration duration = absl::InfiniteDuration();
  int64_t warm_up = 0;  // Conversations.
  LengthRange prompt_tokens = {128, 128};
  LengthRange output_tokens = {64, 64};
  // Beside what is measured: so many at a time.
  int64_t long_prompts = 0;
  LengthRange long_prompt_tokens = {65536, 65536};
  int64_t sessions = 0;
  int64_t turns = 1;
  absl::Duration think_time = absl::ZeroDuration();
  bool keep_sessions = false;
  float temperature = 0;
  uint64_t seed = 1;
  int64_t connections = 1;
  absl::Duration deadline = absl::InfiniteDuration();
  GoodputLimits goodput;
  bool json = false;
  bool help = false;
};

}  // namespace engram::client

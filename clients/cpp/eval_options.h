// The flags of `engram-eval`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "clients/cpp/client.h"
#include "clients/cpp/eval_tasks.h"
#include "clients/cpp/flags.h"

namespace engram::client {

// What to ask which model, and how.
struct Evaluation {
  std::string model;
  TaskSettings settings;
  int64_t count = 1000;
  uint64_t seed = 1;
  int64_t concurrency = 8;  // Prompts at a time.
  // Feed each prompt in turns of at most `turn_tokens` on a session of its own,
  // rather than in one call.
  bool through_session = false;
  int64_t turn_tokens = 65'536;
};

// Errors: INVALID_ARGUMENT with the value and its limit.
absl::Status CheckEvaluation(const Evaluation& evaluation);

struct EvalOptions {
  void AddTo(FlagSet* flags);

  // Fills in what the task says, and checks everything.
  absl::Status Complete();

  std::string server = DefaultServer();
  TlsOptions tls = DefaultTls();
  CallerOptions caller = DefaultCaller();
  Evaluation evaluation;
  std::string task;
  std::optional<int64_t> vocabulary;
  std::optional<int64_t> length;
  bool json = false;
  bool help = false;
};

}  // namespace engram::client

// Asks a model the questions of a task, several at a time, and counts how many
// answers are right.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "clients/cpp/cancellation.h"
#include "clients/cpp/client.h"
#include "clients/cpp/eval_options.h"

namespace engram::client {

// The token ids of SymbolsOf(vocabulary). Errors: the server's;
// FAILED_PRECONDITION if the model has not each of them as one token.
absl::StatusOr<std::vector<int32_t>> FindSymbolIds(
    const std::string& model, int64_t vocabulary, Client* client,
    const CallOptions& options = {});

struct EvalProgress {
  double seconds = 0;
  int64_t asked = 0;  // Of evaluation.count, those that are answered.
  int64_t right = 0;
  int64_t tokens = 0;  // Read by the server, also of those not yet answered.
};

struct EvalRun {
  Evaluation evaluation;  // Passes CheckEvaluation().
  // By symbol; used if the prompts go through sessions.
  std::vector<int32_t> symbol_ids;
  // Begins the ids of the sessions.
  std::string session_prefix;
  // Called in the thread of RunEvaluation() as often as this.
  absl::Duration progress_interval = absl::Seconds(1);
  std::function<void(const EvalProgress&)> on_progress;
};

struct EvalResult {
  int64_t count = 0;  // Answers: all that were asked for, unless cancelled.
  int64_t right = 0;
  double seconds = 0;
  int64_t prompt_tokens = 0;
  // Of a session that has read one prompt, the largest; 0 without sessions.
  int64_t state_bytes = 0;
  // Sessions that could not be deleted.
  int64_t sessions_left = 0;
};

// An answer is the one token that is likeliest after the prompt. Prompts are
// sent as text, through sessions as token ids. Ends early with what there is
// when `cancellation` is cancelled. Errors: the first that any call ended with;
// nothing is counted as wrong that was not answered.
absl::StatusOr<EvalResult> RunEvaluation(const EvalRun& run, Client* client,
                                         Cancellation* cancellation);

}  // namespace engram::client

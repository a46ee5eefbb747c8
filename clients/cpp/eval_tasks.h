// The synthetic tasks of the H3 and Mamba papers: what is asked, what the right
// answer is, and how often a guess is right.
//
// A task's vocabulary has `vocabulary` symbols, each one token of the models
// that are trained on it: the trigger "=>", the no-op ".", and the numbers from
// 0 as normal symbols. A symbol is named by its place among all of them sorted
// as text: "." is 0, "=>" the last, and between them come 0, 1, 10, 11, ..., 2.
//
// Each example is drawn from the seed and its number alone, not from one stream
// of random numbers, so that the same questions are asked whatever order they
// are answered in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace engram::client {

enum class EvalTask {
  // `length` random normal symbols, one of which is replaced by the trigger;
  // then the trigger again. Answer: what followed the first trigger.
  kInductionHead,
  // Half of the normal symbols (the first ones as text) are keys, the others
  // values, and each key has a value. `length` / 2 pairs of key and value, then
  // the trigger and a key that was among them. Answer: its value.
  kAssociativeRecall,
};

absl::string_view ToString(EvalTask task);
// "induction-head" or "associative-recall".
absl::StatusOr<EvalTask> ParseEvalTask(absl::string_view name);

struct TaskSettings {
  EvalTask task = EvalTask::kInductionHead;
  // Symbols, "=>" and "." among them.
  int64_t vocabulary = 0;
  // Random symbols, before the question.
  int64_t length = 0;
};

// As in the H3 paper.
TaskSettings DefaultSettings(EvalTask task);

// Errors: INVALID_ARGUMENT with the value and its limit.
absl::Status CheckSettings(const TaskSettings& settings);

// The share of right answers of someone who knows the task's possible answers
// and picks one at random.
// REQUIRES, as all below: the settings pass CheckSettings().
double ChanceOf(const TaskSettings& settings);

// All symbols of the vocabulary, sorted as text.
std::vector<std::string> SymbolsOf(int64_t vocabulary);

struct Example {
  std::vector<int32_t> prompt;  // Places in SymbolsOf().
  int32_t answer = 0;
};

// The example `number` of `seed`.
Example DrawExample(const TaskSettings& settings, uint64_t seed,
                    int64_t number);

// How many symbols the prompt of any example has.
int64_t PromptSymbols(const TaskSettings& settings);

// The prompt with a blank between two symbols.
std::string PromptText(absl::Span<const int32_t> prompt,
                       absl::Span<const std::string> symbols);

}  // namespace engram::client

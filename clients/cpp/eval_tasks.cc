#include "clients/cpp/eval_tasks.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cpp/flags.h"
#include "tools/shell/closest_word.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

constexpr int64_t kVocabularyMax = 10'000;
constexpr int64_t kLengthMax = int64_t{1} << 20;
constexpr int64_t kSpecialSymbols = 2;

// Two normal symbols, or two keys and two values: with fewer there is nothing
// to find out.
int64_t VocabularyMin(EvalTask task) {
  return task == EvalTask::kInductionHead ? 4 : 6;
}

int64_t LengthMin(EvalTask task) {
  return task == EvalTask::kInductionHead ? 3 : 2;
}

int64_t NormalSymbols(const TaskSettings& settings) {
  return settings.vocabulary - kSpecialSymbols;
}

int32_t Trigger(const TaskSettings& settings) {
  return static_cast<int32_t>(settings.vocabulary - 1);
}

std::mt19937_64 RandomFor(uint64_t seed, int64_t number) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  std::seed_seq words = {low(seed), high(seed), low(number), high(number)};
  return std::mt19937_64(words);
}

// Whole numbers from `least` to `most`, all equally likely.
int32_t Draw(int64_t least, int64_t most, std::mt19937_64* random) {
  return static_cast<int32_t>(
      std::uniform_int_distribution<int64_t>(least, most)(*random));
}

Example DrawInductionHead(const TaskSettings& settings,
                          std::mt19937_64* random) {
  Example example;
  example.prompt.resize(settings.length);
  for (int32_t& symbol : example.prompt) {
    symbol = Draw(1, NormalSymbols(settings), random);
  }
  // Neither of the last two: the answer stays apart from the question.
  const int32_t place = Draw(0, settings.length - 3, random);
  example.prompt[place] = Trigger(settings);
  example.prompt.push_back(Trigger(settings));
  example.answer = example.prompt[place + 1];
  return example;
}

Example DrawAssociativeRecall(const TaskSettings& settings,
                              std::mt19937_64* random) {
  const int64_t keys = NormalSymbols(settings) / 2;
  std::vector<int32_t> value_of(keys + 1);  // By key; keys begin at 1.
  for (int64_t key = 1; key <= keys; ++key) {
    value_of[key] = Draw(keys + 1, 2 * keys, random);
  }
  Example example;
  std::vector<int32_t> seen;
  for (int64_t pair = 0; pair < settings.length / 2; ++pair) {
    const int32_t key = Draw(1, keys, random);
    example.prompt.push_back(key);
    example.prompt.push_back(value_of[key]);
    if (std::find(seen.begin(), seen.end(), key) == seen.end()) {
      seen.push_back(key);
    }
  }
  int32_t key = Draw(1, keys, random);
  if (std::find(seen.begin(), seen.end(), key) == seen.end()) {
    key = seen[Draw(0, static_cast<int64_t>(seen.size()) - 1, random)];
  }
  example.prompt.push_back(Trigger(settings));
  example.prompt.push_back(key);
  example.answer = value_of[key];
  return example;
}

absl::Status CheckRange(absl::string_view what, int64_t value, int64_t least,
                        int64_t most, EvalTask task) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " is ", value, ", ",
                                                 ToString(task), " takes ",
                                                 least, " to ", most));
}

}  // namespace

absl::string_view ToString(EvalTask task) {
  return task == EvalTask::kInductionHead ? "induction-head"
                                          : "associative-recall";
}

absl::StatusOr<EvalTask> ParseEvalTask(absl::string_view name) {
  std::vector<std::string> names;
  for (EvalTask task :
       {EvalTask::kInductionHead, EvalTask::kAssociativeRecall}) {
    if (name == ToString(task)) return task;
    names.emplace_back(ToString(task));
  }
  const std::string closest = ClosestWord(name, names);
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown task '", name, "'; ",
      closest.empty() ? absl::StrCat("known are ", absl::StrJoin(names, ", "))
                      : absl::StrCat("did you mean ", closest, "?")));
}

TaskSettings DefaultSettings(EvalTask task) {
  if (task == EvalTask::kInductionHead) return {task, 20, 30};
  return {task, 10, 20};
}

absl::Status CheckSettings(const TaskSettings& settings) {
  const EvalTask task = settings.task;
  ENGRAM_RETURN_IF_ERROR(CheckRange("vocabulary", settings.vocabulary,
                                    VocabularyMin(task), kVocabularyMax, task));
  ENGRAM_RETURN_IF_ERROR(
      CheckRange("length", settings.length, LengthMin(task), kLengthMax, task));
  if (task == EvalTask::kInductionHead) return absl::OkStatus();
  if (settings.vocabulary % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocabulary is ", settings.vocabulary,
                     ", associative-recall takes even ones: as many keys as "
                     "values"));
  }
  if (settings.length % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("length is ", settings.length,
                     ", associative-recall takes even ones: pairs of key and "
                     "value"));
  }
  return absl::OkStatus();
}

double ChanceOf(const TaskSettings& settings) {
  const int64_t answers = settings.task == EvalTask::kInductionHead
                              ? NormalSymbols(settings)
                              : NormalSymbols(settings) / 2;
  return 1.0 / static_cast<double>(answers);
}

std::vector<std::string> SymbolsOf(int64_t vocabulary) {
  std::vector<std::string> symbols = {"=>", "."};
  for (int64_t i = 0; i < vocabulary - kSpecialSymbols; ++i) {
    symbols.push_back(absl::StrCat(i));
  }
  std::sort(symbols.begin(), symbols.end());
  return symbols;
}

Example DrawExample(const TaskSettings& settings, uint64_t seed,
                    int64_t number) {
  std::mt19937_64 random = RandomFor(seed, number);
  return settings.task == EvalTask::kInductionHead
             ? DrawInductionHead(settings, &random)
             : DrawAssociativeRecall(settings, &random);
}

int64_t PromptSymbols(const TaskSettings& settings) {
  return settings.length + (settings.task == EvalTask::kInductionHead ? 1 : 2);
}

std::string PromptText(absl::Span<const int32_t> prompt,
                       absl::Span<const std::string> symbols) {
  return absl::StrJoin(prompt, " ", [&](std::string* out, int32_t symbol) {
    out->append(symbols[symbol]);
  });
}

}  // namespace engram::client

#include "clients/cpp/flags.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <type_traits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace engram {
namespace {

constexpr size_t kHelpColumn = 30;
constexpr size_t kHelpWidth = 80;

absl::Status NotA(absl::string_view what, absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not ", what));
}

template <typename Integer>
FlagSet::Setter IntegerSetter(Integer* target) {
  return [target](absl::string_view text) {
    return absl::SimpleAtoi(text, target) ? absl::OkStatus()
                                          : NotA("a whole number", text);
  };
}

// NaN passes every range check made by comparison, so it is refused here.
template <typename Number>
FlagSet::Setter NumberSetter(Number* target) {
  return [target](absl::string_view text) {
    double value = 0;
    if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) {
      return NotA("a number", text);
    }
    *target = static_cast<Number>(value);
    return absl::OkStatus();
  };
}

// The number of single-letter changes and swaps of neighbours that turn one
// word into the other.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> distance(a.size() + 1,
                                            std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) distance[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) distance[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      distance[i][j] = std::min({distance[i - 1][j] + 1, distance[i][j - 1] + 1,
                                 distance[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        distance[i][j] = std::min(distance[i][j], distance[i - 2][j - 2] + 1);
      }
    }
  }
  return distance[a.size()][b.size()];
}

bool IsFlag(absl::string_view argument) {
  return absl::StartsWith(argument, "--") && argument.size() > 2;
}

absl::string_view NameOf(absl::string_view argument) {
  argument.remove_prefix(2);
  return argument.substr(0, argument.find('='));
}

// `text` in lines that start at kHelpColumn, the first one without indent.
std::string Wrap(absl::string_view text) {
  std::string result;
  size_t column = kHelpColumn;
  for (absl::string_view word : absl::StrSplit(text, ' ')) {
    if (column > kHelpColumn && column + 1 + word.size() > kHelpWidth) {
      absl::StrAppend(&result, "\n", std::string(kHelpColumn, ' '));
      column = kHelpColumn;
    } else if (column > kHelpColumn) {
      result += ' ';
      ++column;
    }
    absl::StrAppend(&result, word);
    column += word.size();
  }
  return result;
}

}  // namespace

void FlagSet::Add(std::string name, std::string value_name, std::string help,
                  Setter set) {
  flags_.push_back({std::move(name), std::move(value_name), std::move(help),
                    std::move(set)});
}

void FlagSet::Add(std::string name, std::string value_name, std::string help,
                  std::string* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      [target](absl::string_view text) {
        *target = std::string(text);
        return absl::OkStatus();
      });
}

void FlagSet::Add(std::string name, std::string value_name, std::string help,
                  std::optional<std::string>* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      [target](absl::string_view text) {
        *target = std::string(text);
        return absl::OkStatus();
      });
}

void FlagSet::Add(std::string name, std::string value_name, std::string help,
                  int32_t* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      IntegerSetter(target));
}

void FlagSet::Add(std::string name, std::string value_name, std::string help,
                  int64_t* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      IntegerSetter(target));
}

void FlagSet::Add(std::string name, std::string value_name, std::string help,
                  std::optional<int64_t>* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      [target](absl::string_view text) {
        int64_t value = 0;
        absl::Status status = IntegerSetter(&value)(text);
        if (status.ok()) *target = value;
        return status;
      });
}

void FlagSet::Add(std::string name, std::string value_name, std::string help,
                  float* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      NumberSetter(target));
}

void FlagSet::Add(std::string name, std::string value_name, std::string help,
                  double* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      NumberSetter(target));
}

void FlagSet::Add(std::string name, std::string value_name, std::string help,
                  absl::Duration* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      [target](absl::string_view text) {
        absl::StatusOr<absl::Duration> duration = ParseDuration(text);
        if (duration.ok()) *target = *duration;
        return duration.status();
      });
}

void FlagSet::Add(std::string name, std::string value_name, std::string help,
                  std::vector<std::string>* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      [target](absl::string_view text) {
        target->emplace_back(text);
        return absl::OkStatus();
      });
}

void FlagSet::AddSwitch(std::string name, std::string help, bool* target) {
  Add(std::move(name), "", std::move(help), [target](absl::string_view text) {
    return absl::SimpleAtob(text, target) ? absl::OkStatus()
                                          : NotA("true or false", text);
  });
}

const FlagSet::Flag* FlagSet::Find(absl::string_view name) const {
  auto found =
      std::find_if(flags_.begin(), flags_.end(),
                   [&](const Flag& flag) { return flag.name == name; });
  return found == flags_.end() ? nullptr : &*found;
}

absl::Status FlagSet::UnknownFlag(absl::string_view name) const {
  std::vector<std::string> names;
  for (const Flag& flag : flags_) names.push_back(flag.name);
  const std::string closest = ClosestWord(name, names);
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown flag --", name,
      closest.empty() ? "" : absl::StrCat("; did you mean --", closest, "?")));
}

absl::StatusOr<size_t> FlagSet::ParseOne(
    absl::Span<const std::string> arguments, size_t position) const {
  const absl::string_view argument = arguments[position++];
  const absl::string_view name = NameOf(argument);
  const Flag* flag = Find(name);
  if (flag == nullptr) return UnknownFlag(name);

  absl::string_view value = "true";
  if (name.size() + 2 < argument.size()) {
    value = argument.substr(name.size() + 3);
  } else if (!flag->value_name.empty()) {
    // A flag right after a flag is far more often a forgotten value than a
    // value that looks like a flag.
    if (position == arguments.size() ||
        (IsFlag(arguments[position]) &&
         Find(NameOf(arguments[position])) != nullptr)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "flag --", name, " needs a value: --", name, " ", flag->value_name));
    }
    value = arguments[position++];
  }
  absl::Status status = flag->set(value);
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("flag --", name, ": ", status.message()));
  }
  return position;
}

absl::StatusOr<size_t> FlagSet::ParseLeading(
    absl::Span<const std::string> arguments) const {
  size_t position = 0;
  while (position < arguments.size() && IsFlag(arguments[position])) {
    absl::StatusOr<size_t> next = ParseOne(arguments, position);
    if (!next.ok()) return next;
    position = *next;
  }
  if (position < arguments.size() && arguments[position] == "--") ++position;
  return position;
}

absl::StatusOr<std::vector<std::string>> FlagSet::Parse(
    absl::Span<const std::string> arguments) const {
  std::vector<std::string> others;
  size_t position = 0;
  while (position < arguments.size()) {
    if (arguments[position] == "--") {
      others.insert(others.end(), arguments.begin() + position + 1,
                    arguments.end());
      break;
    }
    if (!IsFlag(arguments[position])) {
      others.push_back(arguments[position++]);
      continue;
    }
    absl::StatusOr<size_t> next = ParseOne(arguments, position);
    if (!next.ok()) return next.status();
    position = *next;
  }
  return others;
}

std::string FlagSet::Help() const {
  std::string result;
  for (const Flag& flag : flags_) {
    std::string left = absl::StrCat("  --", flag.name);
    if (!flag.value_name.empty()) absl::StrAppend(&left, " ", flag.value_name);
    if (left.size() + 2 > kHelpColumn) {
      absl::StrAppend(&left, "\n", std::string(kHelpColumn, ' '));
    } else {
      left.resize(kHelpColumn, ' ');
    }
    absl::StrAppend(&result, left, Wrap(flag.help), "\n");
  }
  return result;
}

absl::StatusOr<std::vector<int32_t>> ParseTokenIds(absl::string_view text) {
  std::vector<int32_t> ids;
  if (text.empty()) return ids;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(part, &id) || id < 0) {
      return NotA("a list of token ids such as 1,2,3", text);
    }
    ids.push_back(id);
  }
  return ids;
}

absl::StatusOr<std::string> Unescape(absl::string_view text) {
  std::string result;
  std::string error;
  if (!absl::CUnescape(text, &result, &error)) {
    return absl::InvalidArgumentError(
        absl::StrCat(error, " (a backslash itself is written as two of them)"));
  }
  return result;
}

absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text) {
  absl::Duration duration;
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &duration)) {
    return NotA("a duration such as 1500ms, 30s or 2m", text);
  }
  if (duration < absl::ZeroDuration() || std::isnan(seconds)) {
    return NotA("a duration of zero or more", text);
  }
  return duration;
}

std::string ClosestWord(absl::string_view word,
                        absl::Span<const std::string> candidates) {
  std::string closest;
  size_t smallest = 1 + word.size() / 3;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(word, candidate);
    if (distance <= smallest && (closest.empty() || distance < smallest)) {
      smallest = distance;
      closest = candidate;
    }
  }
  if (!closest.empty()) return closest;
  for (const std::string& candidate : candidates) {
    if (word.size() >= 3 && absl::StartsWith(candidate, word)) return candidate;
  }
  return "";
}

}  // namespace engram

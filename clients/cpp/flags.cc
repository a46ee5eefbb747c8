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
#include "clients/cpp/server_address.h"
#include "clients/cpp/utf8.h"
#include "tools/shell/closest_word.h"
#include "tools/shell/duration.h"
#include "tools/status/early_return.h"

namespace engram::client {
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

absl::Status SetCount(absl::string_view text, int64_t least, int64_t most,
                      int64_t* target) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < least || value > most) {
    return NotA(absl::StrCat("a whole number from ", least, " to ", most),
                text);
  }
  *target = value;
  return absl::OkStatus();
}

// `Switch`: bool, or an optional one.
template <typename Switch>
FlagSet::Setter SwitchSetter(Switch* target) {
  return [target](absl::string_view text) {
    bool value = false;
    if (!absl::SimpleAtob(text, &value)) return NotA("true or false", text);
    *target = value;
    return absl::OkStatus();
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
                    std::move(set), /*is_file=*/false});
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

void FlagSet::AddTokenIds(std::string name, std::string value_name,
                          std::string help,
                          std::optional<std::vector<int32_t>>* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      [target](absl::string_view text) {
        ENGRAM_ASSIGN_OR_RETURN(*target, ParseTokenIds(text));
        return absl::OkStatus();
      });
}

void FlagSet::AddTokenIds(std::string name, std::string value_name,
                          std::string help, std::vector<int32_t>* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      [target](absl::string_view text) {
        ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                                ParseTokenIds(text));
        target->insert(target->end(), ids.begin(), ids.end());
        return absl::OkStatus();
      });
}

void FlagSet::AddEscaped(std::string name, std::string value_name,
                         std::string help, std::string* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      [target](absl::string_view text) {
        ENGRAM_ASSIGN_OR_RETURN(*target, Unescape(text));
        return absl::OkStatus();
      });
}

void FlagSet::AddEscaped(std::string name, std::string value_name,
                         std::string help, std::vector<std::string>* target) {
  Add(std::move(name), std::move(value_name), std::move(help),
      [target](absl::string_view text) {
        ENGRAM_ASSIGN_OR_RETURN(std::string resolved, Unescape(text));
        target->push_back(std::move(resolved));
        return absl::OkStatus();
      });
}

void FlagSet::AddFile(std::string name, std::string help,
                      std::optional<std::string>* target) {
  Add(std::move(name), "FILE", std::move(help), target);
  flags_.back().is_file = true;
}

void FlagSet::AddFile(std::string name, std::string help, std::string* target) {
  Add(std::move(name), "FILE", std::move(help), target);
  flags_.back().is_file = true;
}

void FlagSet::AddTls(TlsOptions* target) {
  Add("tls", "",
      "Speak TLS to the server; the next four imply it. Default: $ENGRAM_TLS.",
      SwitchSetter(&target->enabled));
  AddFile("ca",
          "Authorities that the server's certificate may come from (PEM). "
          "Default: $ENGRAM_CA, else those that this machine knows.",
          &target->ca);
  AddFile("certificate",
          "Shown to a server that asks for one (PEM). Default: "
          "$ENGRAM_CERTIFICATE.",
          &target->certificate);
  AddFile("key", "The key of --certificate (PEM). Default: $ENGRAM_KEY.",
          &target->key);
  Add("server-name", "NAME",
      "The name that the server's certificate must have. Default: "
      "$ENGRAM_SERVER_NAME, else the host of --server.",
      &target->server_name);
}

void FlagSet::AddCaller(CallerOptions* target) {
  AddFile("api-key-file",
          "Holds the key that every call shows to a server that asks for one. "
          "Sent by TLS only, or to this machine itself. Default: "
          "$ENGRAM_API_KEY_FILE.",
          &target->api_key_file);
  Add("tenant", "NAME",
      "For operators: the tenant whose sessions are meant. Default: "
      "$ENGRAM_TENANT, else the key's own.",
      &target->tenant);
}

void FlagSet::AddServer(std::string help, std::string* target) {
  Add("server", "HOST:PORT", std::move(help), [target](absl::string_view text) {
    absl::StatusOr<std::string> address = ParseServerAddress(text);
    if (address.ok()) *target = *std::move(address);
    return address.status();
  });
}

void FlagSet::AddCount(std::string name, std::string help, int64_t least,
                       int64_t most, int64_t* target) {
  Add(std::move(name), "N", std::move(help), [=](absl::string_view text) {
    return SetCount(text, least, most, target);
  });
}

void FlagSet::AddCount(std::string name, std::string help, int64_t least,
                       int64_t most, std::optional<int64_t>* target) {
  Add(std::move(name), "N", std::move(help), [=](absl::string_view text) {
    int64_t value = 0;
    absl::Status status = SetCount(text, least, most, &value);
    if (status.ok()) *target = value;
    return status;
  });
}

void FlagSet::AddLimit(std::string name, std::string help,
                       absl::Duration* target) {
  Add(std::move(name), "DURATION", std::move(help),
      [target](absl::string_view text) {
        ENGRAM_ASSIGN_OR_RETURN(const absl::Duration duration,
                                ParseDuration(text));
        if (duration == absl::ZeroDuration()) {
          return NotA("a duration above zero", text);
        }
        *target = duration;
        return absl::OkStatus();
      });
}

void FlagSet::AddSeed(std::string help, uint64_t* target) {
  Add("seed", "N", std::move(help), [target](absl::string_view text) {
    return absl::SimpleAtoi(text, target) ? absl::OkStatus()
                                          : NotA("a whole number from 0", text);
  });
}

void FlagSet::AddSwitch(std::string name, std::string help, bool* target) {
  Add(std::move(name), "", std::move(help), SwitchSetter(target));
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
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag --", name, DidYouMean(name, names, "--")));
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
  absl::Status status = flag->is_file ? absl::OkStatus() : CheckUtf8(value);
  if (status.ok()) status = flag->set(value);
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
    ENGRAM_ASSIGN_OR_RETURN(position, ParseOne(arguments, position));
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
    ENGRAM_ASSIGN_OR_RETURN(position, ParseOne(arguments, position));
  }
  for (const std::string& other : others) {
    absl::Status status = CheckUtf8(other);
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("argument '", absl::Utf8SafeCHexEscape(other),
                       "': ", status.message()));
    }
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
  ENGRAM_RETURN_IF_ERROR(CheckUtf8(result));
  return result;
}

}  // namespace engram::client

#include "clients/cpp/completion.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/substitute.h"

namespace engram::client {
namespace {

using Flag = FlagSet::Flag;

// The names of the flags that `which` is true of, as one word per flag.
std::string Names(absl::Span<const Flag> flags,
                  const std::function<bool(const Flag&)>& which) {
  std::vector<std::string> names;
  for (const Flag& flag : flags) {
    if (which(flag)) names.push_back("--" + flag.name);
  }
  return absl::StrJoin(names, " ");
}

std::string BashCase(absl::string_view pattern, absl::Span<const Flag> flags,
                     absl::Span<const std::string> words) {
  return absl::Substitute(
      "    $0)\n"
      "      flags='$1'\n"
      "      valued='$2'\n"
      "      files='$3'\n"
      "      words='$4' ;;\n",
      pattern, Names(flags, [](const Flag&) { return true; }),
      Names(flags, [](const Flag& flag) { return !flag.value_name.empty(); }),
      Names(flags, [](const Flag& flag) { return flag.is_file; }),
      absl::StrJoin(words, " "));
}

// $0: the program, $1: the cases of its verbs. What is typed as --flag=value
// reaches the script as three words.
constexpr char kBash[] =
    R"(# Completion of $0 in bash; made by: $0 completion bash
_$0_about() {
  case $$1 in
$1  esac
}

_$0() {
  local flags valued files words verb='' i
  local word=$${COMP_WORDS[COMP_CWORD]} before=''
  ((COMP_CWORD > 0)) && before=$${COMP_WORDS[COMP_CWORD - 1]}
  if [[ $$word == = ]]; then
    word=''
  elif [[ $$before == = ]] && ((COMP_CWORD > 1)); then
    before=$${COMP_WORDS[COMP_CWORD - 2]}
  fi
  COMPREPLY=()
  _$0_about ''
  for ((i = 1; i < COMP_CWORD; ++i)); do
    if [[ $${COMP_WORDS[i]} != -* ]]; then
      verb=$${COMP_WORDS[i]}
      break
    fi
    if [[ $${COMP_WORDS[i + 1]} == = ]]; then
      ((i += 2))
    elif [[ " $$valued " == *" $${COMP_WORDS[i]} "* ]]; then
      ((++i))
    fi
  done
  _$0_about "$$verb"
  if [[ " $$files " == *" $$before "* ]]; then
    compopt -o filenames 2>/dev/null || :
    mapfile -t COMPREPLY < <(compgen -f -- "$$word")
  elif [[ " $$valued " == *" $$before "* ]]; then
    :  # A value that only the user knows.
  elif [[ $$word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$$flags" -- "$$word")
  else
    mapfile -t COMPREPLY < <(compgen -W "$$words" -- "$$word")
  fi
}
complete -F _$0 $0
)";

// Between single quotes, as text of _arguments.
std::string ZshText(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"'", "'\\''"},
                                    {"\\", "\\\\"},
                                    {":", "\\:"},
                                    {"[", "\\["},
                                    {"]", "\\]"}});
}

std::string ZshFlags(absl::Span<const Flag> flags) {
  std::string text;
  for (const Flag& flag : flags) {
    // The first sentence: what follows may depend on who asks.
    const std::string help =
        ZshText(absl::string_view(flag.help).substr(0, flag.help.find(". ")));
    if (flag.value_name.empty()) {
      absl::StrAppend(&text, "      '*--", flag.name, "[", help, "]'\n");
    } else {
      absl::StrAppend(&text, "      '*--", flag.name, "=[", help,
                      "]:", ZshText(flag.value_name), ":",
                      flag.is_file ? "_files" : "", "'\n");
    }
  }
  return text;
}

// $0: the program, $1: its flags, $2: its verbs, $3: the cases of verbs.
constexpr char kZsh[] = R"(#compdef $0
# Completion of $0 in zsh; made by: $0 completion zsh
_$0() {
  local curcontext=$$curcontext state line
  local -a flags verbs
  flags=(
$1  )
  verbs=(
$2  )
  _arguments -C $$flags '1:verb:->verb' '*::argument:->rest'
  case $$state in
    verb) _describe 'verb' verbs ;;
    rest)
      case $$words[1] in
$3      esac ;;
  esac
}
if [[ $$funcstack[1] == _$0 ]]; then
  _$0 "$$@"
else
  compdef _$0 $0
fi
)";

}  // namespace

std::string BashCompletion(absl::string_view program,
                           absl::Span<const Flag> flags,
                           absl::Span<const CompletedVerb> verbs) {
  std::string cases;
  std::vector<std::string> names;
  for (const CompletedVerb& verb : verbs) {
    names.push_back(verb.name);
    cases += BashCase(verb.name, verb.flags, verb.words);
  }
  cases += BashCase("*", flags, names);
  return absl::Substitute(kBash, program, cases);
}

std::string ZshCompletion(absl::string_view program,
                          absl::Span<const Flag> flags,
                          absl::Span<const CompletedVerb> verbs) {
  std::string names, cases;
  for (const CompletedVerb& verb : verbs) {
    absl::StrAppend(&names, "      '", verb.name, ":", ZshText(verb.about),
                    "'\n");
    absl::StrAppend(&cases, "        ", verb.name,
                    ")\n          _arguments \\\n");
    cases += absl::StrReplaceAll(ZshFlags(verb.flags), {{"\n", " \\\n"}});
    if (!verb.words.empty()) {
      absl::StrAppend(&cases, "            '1:action:(",
                      absl::StrJoin(verb.words, " "), ")' \\\n");
    }
    absl::StrAppend(&cases, "            ;;\n");
  }
  return absl::Substitute(kZsh, program, ZshFlags(flags), names, cases);
}

}  // namespace engram::client

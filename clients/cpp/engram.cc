// engram: the command line client. Finds the verb and runs it.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "clients/cpp/flags.h"
#include "clients/cpp/interrupt.h"
#include "clients/cpp/verb.h"
#include "tools/shell/closest_word.h"

namespace engram::client {
namespace {

struct Verb {
  const char* name;
  const char* about;
  int (*run)(Invocation invocation);
};

constexpr Verb kVerbs[] = {
    {"generate", "let a model continue a text", RunGenerate},
    {"chat", "the same line by line, on a session", RunChat},
    {"score", "log-probabilities of a text", RunScore},
    {"sessions", "list, get, create, fork, export, delete what is remembered",
     RunSessions},
    {"checkpoints",
     "list, create, export, delete states that sessions start from",
     RunCheckpoints},
    {"look", "what a session's state holds and answers", RunLook},
    {"models", "what the server has", RunModels},
    {"tokenize", "text to token ids", RunTokenize},
    {"detokenize", "token ids to text", RunDetokenize},
    {"completion", "a script for bash or zsh", RunCompletion},
    {"health", "whether the server serves", RunHealth},
};

constexpr char kExamples[] =
    "Examples:\n"
    "  engram models\n"
    "  engram generate --model mamba-english --prompt 'In the beginning'\n"
    "  engram --server other:8001 chat --model mamba-english\n"
    "  engram generate --session mine --prompt 'And God' --json\n";

constexpr char kExitCodes[] =
    "Exit codes:\n"
    "  0    done\n"
    "  1    the server refused or failed, or could not be reached; or what\n"
    "       was to be printed could not be written\n"
    "  2    wrong use of the command line\n"
    "  130  interrupted by Ctrl-C\n";

void PrintHelp(const FlagSet& flags) {
  Print(
      "engram: the command line client of an Engram server.\n\n"
      "Usage: engram [flags] VERB [flags]\n"
      "       engram --version\n\nVerbs:\n");
  for (const Verb& verb : kVerbs) {
    Print(absl::StrFormat("  %-12s %s\n", verb.name, verb.about));
  }
  Print(absl::StrFormat(
      "`engram VERB --help` lists the flags of a verb.\n\n%s\n"
      "Flags of all verbs, written before or after the verb, as --flag value\n"
      "or --flag=value:\n%s\n%s",
      kExamples, flags.Help(), kExitCodes));
}

int RefuseVerb(const std::string& name) {
  std::vector<std::string> names;
  for (const Verb& verb : kVerbs) names.push_back(verb.name);
  return RefuseUse("engram", absl::StrCat("unknown verb '", name, "'",
                                          DidYouMean(name, names)));
}

int Main(const std::vector<std::string>& arguments) {
  Interrupt interrupt;
  Invocation invocation;
  invocation.interrupt = &interrupt;
  FlagSet flags;
  invocation.global.AddTo(&flags);
  absl::StatusOr<size_t> leading = flags.ParseLeading(arguments);
  if (!leading.ok()) {
    return RefuseUse("engram",
                     absl::StrCat(leading.status().message(),
                                  " (flags of a verb stand after it)"));
  }
  if (*leading == arguments.size() || arguments[*leading] == "help") {
    PrintHelp(flags);
    return invocation.global.help || *leading < arguments.size() ? kExitOk
                                                                 : kExitUsage;
  }
  const std::string& name = arguments[*leading];
  invocation.arguments.assign(arguments.begin() + *leading + 1,
                              arguments.end());
  const auto verb =
      std::find_if(std::begin(kVerbs), std::end(kVerbs),
                   [&](const Verb& verb) { return name == verb.name; });
  if (verb == std::end(kVerbs)) return RefuseVerb(name);
  invocation.global.verb = name;
  return verb->run(std::move(invocation));
}

}  // namespace

std::vector<CompletedVerb> DescribeVerbs() {
  std::vector<CompletedVerb> verbs;
  for (const Verb& verb : kVerbs) {
    CompletedVerb described = {verb.name, verb.about, {}, {}};
    Invocation invocation;
    invocation.describe = [&](const FlagSet& flags, const VerbHelp& help) {
      described.flags = flags.flags();
      described.words = absl::StrSplit(help.words, ' ', absl::SkipEmpty());
    };
    verb.run(std::move(invocation));
    verbs.push_back(std::move(described));
  }
  return verbs;
}

}  // namespace engram::client

int main(int argc, char** argv) {
  return engram::client::RunClientProgram("engram", argc, argv,
                                          engram::client::Main);
}

// engram completion: what a shell needs to complete command lines.
#include "absl/strings/str_cat.h"
#include "clients/cpp/completion.h"
#include "clients/cpp/verb.h"

namespace engram::client {
namespace {

constexpr VerbHelp kHelp = {
    "engram completion (bash | zsh)",
    "Prints a script by which the shell completes verbs, flags and files.",
    "  engram completion bash > ~/.local/share/bash-completion/completions/"
    "engram\n"
    "  source <(engram completion bash)     # for this shell only\n"
    "  engram completion zsh > ~/.zfunc/_engram   # a folder of $fpath",
    "bash zsh"};

}  // namespace

int RunCompletion(Invocation invocation) {
  FlagSet flag_set;
  VerbArguments arguments(&invocation, &flag_set, kHelp);
  if (!arguments.Parse()) return arguments.exit_code();
  const std::vector<std::string>& words = arguments.positional();
  const bool bash = words.size() == 1 && words[0] == "bash";
  const bool zsh = words.size() == 1 && words[0] == "zsh";
  if (!bash && !zsh) return arguments.Refuse("for which shell? bash or zsh");
  FlagSet global;
  GlobalFlags().AddTo(&global);
  const std::vector<CompletedVerb> verbs = DescribeVerbs();
  Print(bash ? BashCompletion("engram", global.flags(), verbs)
             : ZshCompletion("engram", global.flags(), verbs));
  return kExitOk;
}

}  // namespace engram::client

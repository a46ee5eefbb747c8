// Completion scripts for shells, made from the flags themselves.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "clients/cpp/flags.h"

namespace engram::client {

// What may follow one word of a command line.
struct CompletedVerb {
  std::string name;
  std::string about;
  // Words that it takes besides flags, such as "list".
  std::vector<std::string> words;
  std::vector<FlagSet::Flag> flags;
};

// A script that, when the shell reads it, completes `program`: verbs, their
// words and flags, and names of files where a flag takes one. `flags` are those
// that may stand before the verb.
std::string BashCompletion(absl::string_view program,
                           absl::Span<const FlagSet::Flag> flags,
                           absl::Span<const CompletedVerb> verbs);
std::string ZshCompletion(absl::string_view program,
                          absl::Span<const FlagSet::Flag> flags,
                          absl::Span<const CompletedVerb> verbs);

}  // namespace engram::client

// What the verbs of `engram` share: the flags that all of them have, and how
// they speak to the terminal.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "clients/cpp/client.h"
#include "clients/cpp/completion.h"
#include "clients/cpp/flags.h"
#include "clients/cpp/interrupt.h"
#include "clients/cpp/program.h"
#include "tools/shell/standard_output.h"

namespace engram::client {

// Flags that may stand before or after the verb.
struct GlobalFlags {
  void AddTo(FlagSet* flags);

  // The verb, for what is said about its --help.
  std::string verb;
  std::string server = DefaultServer();
  TlsOptions tls = DefaultTls();
  CallerOptions caller = DefaultCaller();
  absl::Duration deadline = absl::InfiniteDuration();
  int64_t retries = 6;
  bool json = false;
  bool verbose = false;
  bool help = false;
};

// Texts of a verb's --help.
struct VerbHelp {
  absl::string_view usage;     // "engram score (--text TEXT | ...) [flags]"
  absl::string_view about;     // What it does, in a sentence or two.
  absl::string_view examples;  // Indented lines.
  // What may follow besides flags, for shells that complete: "list get".
  absl::string_view words = "";
};

// What a verb is run with. `arguments` are those after the verb.
struct Invocation {
  GlobalFlags global;
  std::vector<std::string> arguments;
  Interrupt* interrupt = nullptr;
  // If set, the verb only tells what it takes, and is not run.
  std::function<void(const FlagSet&, const VerbHelp&)> describe;
};

// Reads the arguments of a verb. Thread-compatible.
class VerbArguments {
 public:
  // Adds the global flags to `flags`, after the verb's own.
  VerbArguments(Invocation* invocation, FlagSet* flags, const VerbHelp& help);

  // False: the verb ends now with exit_code(), and all is said.
  bool Parse();
  int exit_code() const { return exit_code_; }

  // The arguments that are no flags.
  const std::vector<std::string>& positional() const { return positional_; }

  // Refuses a use of the verb, with what was wrong.
  int Refuse(absl::string_view message) const;
  // The same of one of VerbHelp::words with a wrong number of `names` behind
  // it, "ids", or of another word.
  int RefuseAction(const std::string& action, absl::string_view names) const;

 private:
  Invocation* const invocation_;
  FlagSet* const flags_;
  const VerbHelp help_;
  std::vector<std::string> positional_;
  int exit_code_ = kExitOk;
};

// Warns of what is unwise about them.
ClientOptions MakeClientOptions(const GlobalFlags& global);

// "engram: CODE_NAME: message" and what to do next, on standard error. Returns
// the exit code that belongs to it.
int ReportError(const absl::Status& status, const GlobalFlags& global);

// `message` as one line on standard output, at once. Errors: INTERNAL if it has
// no JSON.
absl::Status PrintJson(const google::protobuf::Message& message);

// Shows what a call gave: its error, or its response as JSON or by `show`.
// Returns the exit code.
template <typename Response>
int ShowResponse(const GlobalFlags& global,
                 const absl::StatusOr<Response>& response,
                 absl::FunctionRef<void(const Response&)> show) {
  absl::Status status = response.status();
  if (status.ok() && global.json) status = PrintJson(*response);
  if (!status.ok()) return ReportError(status, global);
  if (!global.json) show(*response);
  return kExitOk;
}

// Shows all pages of a list as ShowResponse does, each as soon as it is there,
// and before the first one `heading`, unless it is JSON. `get` asks for the
// page of a request. Returns the exit code.
template <typename Response, typename Request>
int ShowPages(const GlobalFlags& global, Request request,
              absl::FunctionRef<absl::StatusOr<Response>(const Request&)> get,
              const std::string& heading,
              absl::FunctionRef<void(const Response&)> show) {
  int exit_code = kExitOk;
  do {
    const absl::StatusOr<Response> page = get(request);
    exit_code =
        ShowResponse<Response>(global, page, [&](const Response& response) {
          if (request.page_token().empty()) Print(heading);
          show(response);
        });
    if (exit_code == kExitOk) request.set_page_token(page->next_page_token());
  } while (exit_code == kExitOk && !request.page_token().empty() &&
           PrintStatus().ok());
  return exit_code;
}

// Shows what a call gave of each name, whatever came of those before. The exit
// code of the last that failed.
template <typename Response>
int ShowOfEach(
    const GlobalFlags& global, absl::Span<const std::string> names,
    absl::FunctionRef<absl::StatusOr<Response>(const std::string&)> call) {
  int exit_code = kExitOk;
  for (const std::string& name : names) {
    const int shown =
        ShowResponse<Response>(global, call(name), [](const Response&) {});
    if (shown != kExitOk) exit_code = shown;
  }
  return exit_code;
}

// The text of a flag that names a file, with the flag's name in errors.
absl::StatusOr<std::string> ReadFlagFile(absl::string_view flag,
                                         const std::string& file);

// All verbs with their flags, for completion.
std::vector<CompletedVerb> DescribeVerbs();

// The verbs. Each returns the exit code of the program.
int RunGenerate(Invocation invocation);
int RunChat(Invocation invocation);
int RunScore(Invocation invocation);
int RunSessions(Invocation invocation);
int RunCheckpoints(Invocation invocation);
int RunLook(Invocation invocation);
int RunModels(Invocation invocation);
int RunTokenize(Invocation invocation);
int RunDetokenize(Invocation invocation);
int RunCompletion(Invocation invocation);
int RunHealth(Invocation invocation);

}  // namespace engram::client

#include "clients/cpp/verb.h"

#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "clients/cpp/input_file.h"
#include "clients/cpp/json.h"
#include "tools/shell/closest_word.h"
#include "tools/status/retry_after.h"

namespace engram::client {

void GlobalFlags::AddTo(FlagSet* flags) {
  flags->AddServer(
      absl::StrCat("Where the server listens; HOST alone means port 8001. "
                   "Default: $ENGRAM_SERVER, else localhost:8001; now ",
                   server, "."),
      &server);
  flags->AddTls(&tls);
  flags->AddCaller(&caller);
  flags->AddLimit("deadline",
                  "Give up after this time, such as 1500ms, 30s or 5 "
                  "(seconds). Default: never.",
                  &deadline);
  flags->AddCount("retries",
                  absl::StrCat("When the server cannot be reached or a stream "
                               "breaks, go on by itself; give up after N "
                               "repeats in a row that brought nothing new. "
                               "Default: ",
                               retries, "."),
                  0, 1'000'000, &retries);
  flags->AddSwitch("json",
                   "Print each response message as one line of protobuf JSON, "
                   "and nothing else.",
                   &json);
  flags->AddSwitch("verbose", "Tell more on standard error.", &verbose);
  flags->AddSwitch("help", "Show this text.", &help);
}

VerbArguments::VerbArguments(Invocation* invocation, FlagSet* flags,
                             const VerbHelp& help)
    : invocation_(invocation), flags_(flags), help_(help) {
  invocation_->global.AddTo(flags_);
}

bool VerbArguments::Parse() {
  if (invocation_->describe) {
    invocation_->describe(*flags_, help_);
    return false;
  }
  absl::StatusOr<std::vector<std::string>> positional =
      flags_->Parse(invocation_->arguments);
  if (!positional.ok()) {
    exit_code_ = Refuse(positional.status().message());
    return false;
  }
  positional_ = *std::move(positional);
  if (invocation_->global.help) {
    Print(absl::StrFormat("Usage: %s\n\n%s\n\nExamples:\n%s\n\nFlags:\n%s",
                          help_.usage, help_.about, help_.examples,
                          flags_->Help()));
    return false;
  }
  return true;
}

int VerbArguments::Refuse(absl::string_view message) const {
  absl::FPrintF(stderr, "engram: %s\nUsage: %s\n", message, help_.usage);
  absl::FPrintF(stderr, "`--help` after the verb tells more.\n");
  return kExitUsage;
}

int VerbArguments::RefuseAction(const std::string& action,
                                absl::string_view names) const {
  const std::vector<std::string> actions = absl::StrSplit(help_.words, ' ');
  if (absl::c_linear_search(actions, action)) {
    return Refuse(absl::StrCat("wrong number of ", names, " for ", action));
  }
  return Refuse(absl::StrCat("unknown action '", action, "'",
                             DidYouMean(action, actions)));
}

ClientOptions MakeClientOptions(const GlobalFlags& global) {
  WarnOfCaller("engram", global.caller);
  ClientOptions options;
  options.server = global.server;
  options.tls = global.tls;
  options.caller = global.caller;
  options.retries = static_cast<int>(global.retries);
  // A server that is away fails every repeat in the same way: said once.
  options.on_repeat = [said = absl::Status()](const absl::Status& status,
                                              absl::Duration wait) mutable {
    if (status.code() == said.code()) return;
    said = status;
    // How long is worth a word only if the server said so.
    const std::string when =
        RetryAfter(status).has_value()
            ? absl::StrFormat(" in %.1f s", absl::ToDoubleSeconds(wait))
            : "";
    absl::FPrintF(stderr, "engram: %s: %s; trying again%s\n",
                  absl::StatusCodeToString(status.code()), status.message(),
                  when);
  };
  return options;
}

int ReportError(const absl::Status& status, const GlobalFlags& global) {
  // Then that is the reason, and is told once, in the end.
  if (!PrintStatus().ok()) return kExitFailed;
  return ReportFailedCall("engram", absl::StrCat("engram ", global.verb),
                          status, global.server);
}

absl::Status PrintJson(const google::protobuf::Message& message) {
  absl::StatusOr<std::string> line = ToJsonLine(message);
  if (line.ok()) Print(absl::StrCat(*line, "\n"));
  return line.status();
}

absl::StatusOr<std::string> ReadFlagFile(absl::string_view flag,
                                         const std::string& file) {
  absl::StatusOr<std::string> text = ReadTextFile(file);
  if (text.ok()) return text;
  return absl::InvalidArgumentError(
      absl::StrCat("flag --", flag, ": ", text.status().message()));
}

}  // namespace engram::client

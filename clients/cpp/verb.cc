#include "clients/cpp/verb.h"

#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cpp/json.h"

namespace engram {
namespace {

// What somebody who reads the error may do about it.
std::string Advice(const absl::Status& status, absl::string_view server) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return absl::StrCat(
          "is a server running at ", server,
          "? Start one with scripts/serve, or name another with --server "
          "HOST:PORT");
    case absl::StatusCode::kNotFound:
      return "`engram models` and `engram sessions list` show what there is";
    case absl::StatusCode::kFailedPrecondition:
      return "if the session went on elsewhere, `engram sessions get ID` tells "
             "its version";
    case absl::StatusCode::kAborted:
      return "another turn is running on this session: try again when it is "
             "over, or go on in a copy made by `engram sessions fork ID`";
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return "`engram VERB --help` tells what each flag takes";
    case absl::StatusCode::kAlreadyExists:
      return "choose another id";
    case absl::StatusCode::kDeadlineExceeded:
      return "allow more time with --deadline, or ask for less with "
             "--max-tokens";
    case absl::StatusCode::kResourceExhausted:
      return "ask for less, or try again later";
    case absl::StatusCode::kUnimplemented:
      return "the server is older than this client, or no Engram server";
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return "the server's log tells more";
    default:
      return "";
  }
}

}  // namespace

void GlobalFlags::AddTo(FlagSet* flags) {
  flags->Add("server", "HOST:PORT",
             absl::StrCat("Where the server listens. Default: $ENGRAM_SERVER, "
                          "else localhost:8001; now ",
                          server, "."),
             &server);
  flags->Add("deadline", "DURATION",
             "Give up after this time, such as 30s or 1500ms. Default: never.",
             &deadline);
  flags->Add("retries", "N",
             absl::StrCat("When the server cannot be reached or a stream "
                          "breaks, go on by itself; give up after N repeats in "
                          "a row that brought nothing new. Default: ",
                          retries, "."),
             &retries);
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
  absl::StatusOr<std::vector<std::string>> positional =
      flags_->Parse(invocation_->arguments);
  if (!positional.ok()) {
    exit_code_ = Refuse(positional.status().message());
    return false;
  }
  positional_ = *std::move(positional);
  if (invocation_->global.retries < 0) {
    exit_code_ = Refuse("flag --retries: must be 0 or more");
    return false;
  }
  if (invocation_->global.help) {
    absl::PrintF("Usage: %s\n\n%s\n\nExamples:\n%s\n\nFlags:\n%s", help_.usage,
                 help_.about, help_.examples, flags_->Help());
    return false;
  }
  return true;
}

int VerbArguments::Refuse(absl::string_view message) const {
  absl::FPrintF(stderr, "engram: %s\nUsage: %s\n", message, help_.usage);
  absl::FPrintF(stderr, "`--help` after the verb tells more.\n");
  return kExitUsage;
}

ClientOptions MakeClientOptions(const GlobalFlags& global) {
  ClientOptions options;
  options.server = global.server;
  options.retries = global.retries;
  // A server that is away fails every repeat in the same way: said once.
  options.on_repeat = [said = absl::Status()](const absl::Status& status,
                                              absl::Duration wait) mutable {
    if (status.code() == said.code()) return;
    said = status;
    absl::FPrintF(stderr, "engram: %s: %s; trying again\n",
                  absl::StatusCodeToString(status.code()), status.message());
  };
  return options;
}

int ReportError(const absl::Status& status, absl::string_view server) {
  absl::FPrintF(stderr, "engram: %s: %s\n",
                absl::StatusCodeToString(status.code()), status.message());
  const std::string advice = Advice(status, server);
  if (!advice.empty()) absl::FPrintF(stderr, "  %s\n", advice);
  return kExitFailed;
}

void PrintJson(const google::protobuf::Message& message) {
  PrintText(absl::StrCat(ToJsonLine(message), "\n"));
}

void PrintText(absl::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

absl::StatusOr<std::string> ReadFile(const std::string& name) {
  if (name == "-") {
    return std::string(std::istreambuf_iterator<char>(std::cin), {});
  }
  std::ifstream file(name, std::ios::binary);
  std::string content(std::istreambuf_iterator<char>(file), {});
  if (!file.good()) {
    return absl::NotFoundError(absl::StrCat("cannot read ", name));
  }
  return content;
}

}  // namespace engram

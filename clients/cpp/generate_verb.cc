// engram generate: one turn.
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cpp/turn_flags.h"
#include "clients/cpp/turn_output.h"
#include "clients/cpp/verb.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

constexpr VerbHelp kHelp = {
    "engram generate (--prompt TEXT | --prompt-file FILE | --tokens 1,2,3) "
    "[flags]",
    "Lets a model continue a text and prints what it says as it comes. On a\n"
    "session (--session) the model remembers; the prompt may then be left out\n"
    "to let it say more. Ctrl-C cancels the turn.",
    "  engram generate --model mamba-english --prompt 'In the beginning'\n"
    "  engram generate --prompt 'Once' --temperature 0.8 --seed 7 --stop "
    "'\\n'\n"
    "  engram generate --session mine --prompt-file chapter.txt --max-tokens "
    "0\n"
    "  engram generate --session mine --prompt 'And then' --json\n"
    "  cat question.txt | engram generate --prompt-file -"};

struct PromptFlags {
  void AddTo(FlagSet* flags) {
    flags->Add("prompt", "TEXT", "What the model reads.", &text);
    flags->AddFile("prompt-file",
                   "Read the prompt from a file; -: from standard input.",
                   &file);
    flags->AddTokenIds("tokens", "1,2,3", "The prompt as token ids.", &tokens);
  }

  // Puts the prompt, if there is one, into `request`.
  absl::Status Apply(v1::GenerateRequest* request) const {
    if (text.has_value() + file.has_value() + tokens.has_value() > 1) {
      return absl::InvalidArgumentError(
          "give only one of --prompt, --prompt-file and --tokens");
    }
    if (tokens.has_value()) {
      request->mutable_token_ids()->mutable_ids()->Add(tokens->begin(),
                                                       tokens->end());
    } else if (file.has_value()) {
      ENGRAM_ASSIGN_OR_RETURN(std::string content,
                              ReadFlagFile("prompt-file", *file));
      request->set_text(std::move(content));
    } else if (text.has_value()) {
      request->set_text(*text);
    } else if (request->session_id().empty()) {
      return absl::InvalidArgumentError(
          "give a prompt: --prompt TEXT, --prompt-file FILE or --tokens 1,2,3");
    }
    return absl::OkStatus();
  }

  std::optional<std::string> text;
  std::optional<std::string> file;
  std::optional<std::vector<int32_t>> tokens;
};

struct GenerateFlags {
  void AddTo(FlagSet* flags) {
    prompt.AddTo(flags);
    turn.AddTo(flags);
    flags->Add("expected-version", "V",
               "Run only if the session has this version; 0: only if it is "
               "new; any: do not check. Default: the version it has now.",
               &expected_version);
    flags->Add("request-id", "ID",
               "A turn that was committed under this id is not run again but "
               "its answer is repeated. Default: made up.",
               &request_id);
    flags->AddTokenIds(
        "received-tokens", "1,2,3",
        "Tokens of this turn's answer that you already have: the answer "
        "goes on after them.",
        &received_tokens);
  }

  absl::StatusOr<v1::GenerateRequest> MakeRequest() const {
    v1::GenerateRequest request = turn.MakeRequest();
    request.set_request_id(request_id);
    if (received_tokens.has_value()) {
      request.mutable_received_token_ids()->Add(received_tokens->begin(),
                                                received_tokens->end());
    }
    ENGRAM_RETURN_IF_ERROR(prompt.Apply(&request));
    return request;
  }

  PromptFlags prompt;
  TurnFlags turn;
  std::string request_id;
  std::string expected_version;
  std::optional<std::vector<int32_t>> received_tokens;
};

// Sets expected_version from the flag, or asks the server.
absl::Status SetExpectedVersion(const std::string& flag, Client* client,
                                const CallOptions& call,
                                v1::GenerateRequest* request) {
  if (request->session_id().empty() || flag == "any") return absl::OkStatus();
  int64_t version = 0;
  if (absl::SimpleAtoi(flag, &version)) {
    request->set_expected_version(version);
    return absl::OkStatus();
  }
  ENGRAM_ASSIGN_OR_RETURN(version,
                          client->SessionVersion(request->session_id(), call));
  request->set_expected_version(version);
  return absl::OkStatus();
}

absl::string_view WhatBecomesOfTheSession(const v1::GenerateRequest& request) {
  if (request.session_id().empty()) return "";
  return request.keep_partial() ? "; the session keeps what was said"
                                : "; the session is as it was before";
}

}  // namespace

int RunGenerate(Invocation invocation) {
  GenerateFlags flags;
  FlagSet flag_set;
  flags.AddTo(&flag_set);
  VerbArguments arguments(&invocation, &flag_set, kHelp);
  if (!arguments.Parse()) return arguments.exit_code();
  if (!arguments.positional().empty()) {
    return arguments.Refuse(absl::StrCat("unexpected argument '",
                                         arguments.positional()[0],
                                         "'; a prompt is given by --prompt"));
  }
  int64_t version = 0;
  if (!flags.expected_version.empty() && flags.expected_version != "any" &&
      !absl::SimpleAtoi(flags.expected_version, &version)) {
    return arguments.Refuse(
        "flag --expected-version: takes a whole number or 'any'");
  }
  absl::StatusOr<v1::GenerateRequest> request = flags.MakeRequest();
  if (!request.ok()) return arguments.Refuse(request.status().message());

  const GlobalFlags& global = invocation.global;
  Client client(MakeClientOptions(global));
  Cancellation cancellation;
  InterruptScope scope(invocation.interrupt, &cancellation);
  const CallOptions call = {global.deadline, &cancellation};
  TurnOutput output(global.json);
  absl::Status status =
      SetExpectedVersion(flags.expected_version, &client, call, &*request);
  if (status.ok()) {
    status = client.Generate(
        *request,
        [&](const v1::GenerateResponse& response) {
          // An answer that nobody can see is not worth making.
          if (!output.Show(response).ok()) cancellation.Cancel();
        },
        call);
  }
  output.EndLine();
  if (!output.status().ok()) return ReportError(output.status(), global);
  if (status.ok()) {
    if (global.verbose) output.ShowStatistics();
    if (output.completed().finish_reason() == v1::CANCELLED) {
      absl::FPrintF(stderr,
                    "engram: the turn was cut short; `engram generate "
                    "--session %s` goes on from there\n",
                    request->session_id());
    }
    return kExitOk;
  }
  if (!cancellation.cancelled()) return ReportError(status, global);
  absl::FPrintF(stderr, "engram: interrupted%s\n",
                WhatBecomesOfTheSession(*request));
  return kExitInterrupted;
}

}  // namespace engram::client

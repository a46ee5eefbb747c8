// engram score: how likely a model finds a text.
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cpp/verb.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

constexpr VerbHelp kHelp = {
    "engram score (--text TEXT | --text-file FILE | --tokens 1,2,3) [flags]",
    "Prints the natural logarithm of the probability that the model gives "
    "each\n"
    "token of a text, and their sum. Changes no session.",
    "  engram score --model mamba-english --text 'In the beginning'\n"
    "  engram score --session mine --text ' was the word'\n"
    "  engram score --tokens 1,2,3 --logprobs 5 --json"};

struct ScoreFlags {
  void AddTo(FlagSet* flags) {
    flags->Add("text", "TEXT", "The text.", &text);
    flags->AddFile("text-file", "Read it from a file; -: from standard input.",
                   &file);
    flags->AddTokenIds("tokens", "1,2,3", "The text as token ids.", &tokens);
    flags->Add("model", "NAME",
               "Which model. Default: the session's, or the only one served.",
               &model);
    flags->Add("session", "ID", "Score the text after what this session read.",
               &session);
    flags->Add("from-checkpoint", "NAME", "Score it after a checkpoint.",
               &from_checkpoint);
    flags->Add("logprobs", "K",
               "With --json: the K likeliest tokens at each place too, 0 to "
               "20.",
               &logprobs);
    flags->AddSwitch("parse-special-tokens",
                     "Recognise special tokens such as <|endoftext|>.",
                     &parse_special_tokens);
  }

  absl::StatusOr<v1::ScoreRequest> MakeRequest() const {
    if (text.has_value() + file.has_value() + tokens.has_value() != 1) {
      return absl::InvalidArgumentError(
          "give one of --text TEXT, --text-file FILE and --tokens 1,2,3");
    }
    v1::ScoreRequest request;
    request.set_model(model);
    request.set_session_id(session);
    request.set_from_checkpoint(from_checkpoint);
    request.set_logprobs(logprobs);
    request.set_parse_special_tokens(parse_special_tokens);
    if (text.has_value()) request.set_text(*text);
    if (file.has_value()) {
      ENGRAM_ASSIGN_OR_RETURN(std::string content,
                              ReadFlagFile("text-file", *file));
      request.set_text(std::move(content));
    }
    if (tokens.has_value()) {
      request.mutable_token_ids()->mutable_ids()->Add(tokens->begin(),
                                                      tokens->end());
    }
    return request;
  }

  std::optional<std::string> text;
  std::optional<std::string> file;
  std::optional<std::vector<int32_t>> tokens;
  std::string model;
  std::string session;
  std::string from_checkpoint;
  int32_t logprobs = 0;
  bool parse_special_tokens = false;
};

void PrintTable(const v1::ScoreResponse& response) {
  double sum = 0;
  int scored = 0;
  Print(absl::StrFormat("%12s %8s  %s\n", "logprob", "id", "bytes"));
  for (const v1::Token& token : response.tokens()) {
    const std::string bytes = absl::CHexEscape(token.bytes());
    if (!token.has_logprob()) {
      Print(absl::StrFormat("%12s %8d  %s\n", "-", token.id(), bytes));
      continue;
    }
    Print(absl::StrFormat("%12.6f %8d  %s\n", token.logprob(), token.id(),
                          bytes));
    sum += token.logprob();
    ++scored;
  }
  Print(absl::StrFormat("sum %.6f over %d tokens", sum, scored));
  if (scored > 0) {
    Print(absl::StrFormat(", perplexity %.4f", std::exp(-sum / scored)));
  }
  Print("\n");
}

}  // namespace

int RunScore(Invocation invocation) {
  ScoreFlags flags;
  FlagSet flag_set;
  flags.AddTo(&flag_set);
  VerbArguments arguments(&invocation, &flag_set, kHelp);
  if (!arguments.Parse()) return arguments.exit_code();
  if (!arguments.positional().empty()) {
    return arguments.Refuse(absl::StrCat("unexpected argument '",
                                         arguments.positional()[0],
                                         "'; a text is given by --text"));
  }
  absl::StatusOr<v1::ScoreRequest> request = flags.MakeRequest();
  if (!request.ok()) return arguments.Refuse(request.status().message());

  const GlobalFlags& global = invocation.global;
  Client client(MakeClientOptions(global));
  return ShowResponse<v1::ScoreResponse>(
      global, client.Score(*request, {.deadline = global.deadline}),
      PrintTable);
}

}  // namespace engram::client

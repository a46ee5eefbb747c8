// engram models, tokenize and detokenize: what is served, and its tokenizers.
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "clients/cpp/human.h"
#include "clients/cpp/verb.h"

namespace engram::client {
namespace {

constexpr VerbHelp kModelsHelp = {
    "engram models [list | get [NAME]] [flags]",
    "Lists the models that the server has, or shows one.",
    "  engram models\n"
    "  engram models get mamba-english\n"
    "  engram models list --json",
    "list get"};

constexpr VerbHelp kTokenizeHelp = {
    "engram tokenize (--text TEXT | --text-file FILE) [--model NAME] [flags]",
    "Prints the token ids of a text, separated by commas as --tokens takes\n"
    "them; with --verbose each with its bytes.",
    "  engram tokenize --model mamba-english --text 'In the beginning'\n"
    "  engram tokenize --text-file chapter.txt --verbose"};

constexpr VerbHelp kDetokenizeHelp = {
    "engram detokenize --tokens 1,2,3 [--model NAME] [flags]",
    "Prints the text of token ids, byte for byte.",
    "  engram detokenize --model mamba-english --tokens 72,105"};

std::string DescribeCost(const v1::ModelInfo& model) {
  std::string cost = absl::StrCat(model.state_bytes(), " bytes");
  if (model.kv_bytes_per_token() > 0) {
    absl::StrAppend(&cost, " and ", model.kv_bytes_per_token(), " per token");
  }
  return cost;
}

// A CPU's memory is the machine's, of which others tell.
void PrintDevice(const v1::Device& device) {
  if (device.memory_limit() == 0) return;
  Print(absl::StrFormat(
      "  on device %d%s, where models have %s and may take %s\n",
      device.index(),
      device.name().empty() ? "" : absl::StrCat(" (", device.name(), ")"),
      Bytes(device.memory_taken()), Bytes(device.memory_limit())));
}

void PrintModel(const v1::ModelInfo& model) {
  Print(absl::StrFormat(
      "%s\n"
      "  family %s, %d layers, %d parameters, %s weights, %s\n"
      "  vocabulary %d%s\n"
      "  a session costs %s\n",
      model.name(), model.family(), model.layers(), model.parameters(),
      model.weight_format(), model.backend(), model.vocabulary_size(),
      model.has_tokenizer() ? "" : ", no tokenizer (token ids only)",
      DescribeCost(model)));
  if (model.max_positions() > 0) {
    Print(absl::StrFormat("  a sequence has at most %d tokens\n",
                          model.max_positions()));
  }
  if (model.chunk_tokens() > 1) {
    Print(
        absl::StrFormat("  a text is read in chunks of %d tokens: cuts "
                        "elsewhere change answers "
                        "within rounding\n",
                        model.chunk_tokens()));
  }
  for (const v1::Device& device : model.devices()) PrintDevice(device);
  Print(absl::StrFormat("  weight hash %s\n", model.weight_hash()));
  for (const std::string& warning : model.warnings()) {
    Print(absl::StrFormat("  warning: %s\n", warning));
  }
}

int ListModels(const GlobalFlags& global) {
  Client client(MakeClientOptions(global));
  return ShowResponse<v1::ListModelsResponse>(
      global, client.ListModels({.deadline = global.deadline}),
      [](const v1::ListModelsResponse& response) {
        for (const v1::ModelInfo& model : response.models()) PrintModel(model);
      });
}

int GetModel(const GlobalFlags& global, const std::string& name) {
  Client client(MakeClientOptions(global));
  v1::GetModelRequest request;
  request.set_model(name);
  return ShowResponse<v1::ModelInfo>(
      global, client.GetModel(request, {.deadline = global.deadline}),
      PrintModel);
}

void PrintTokens(const v1::TokenizeResponse& response, bool verbose) {
  if (!verbose) {
    Print(absl::StrCat(absl::StrJoin(response.token_ids(), ","), "\n"));
    return;
  }
  for (int i = 0; i < response.token_ids_size(); ++i) {
    Print(absl::StrFormat("%8d  %s\n", response.token_ids(i),
                          i < response.pieces_size()
                              ? absl::CHexEscape(response.pieces(i))
                              : ""));
  }
}

}  // namespace

int RunModels(Invocation invocation) {
  FlagSet flag_set;
  VerbArguments arguments(&invocation, &flag_set, kModelsHelp);
  if (!arguments.Parse()) return arguments.exit_code();
  const std::vector<std::string>& words = arguments.positional();
  if (words.empty() || (words[0] == "list" && words.size() == 1)) {
    return ListModels(invocation.global);
  }
  if (words[0] == "get" && words.size() <= 2) {
    return GetModel(invocation.global, words.size() == 2 ? words[1] : "");
  }
  return arguments.Refuse(
      absl::StrCat("unknown arguments from '", words[0], "' on"));
}

int RunTokenize(Invocation invocation) {
  std::optional<std::string> text;
  std::optional<std::string> file;
  v1::TokenizeRequest request;
  bool parse_special_tokens = false;
  FlagSet flag_set;
  flag_set.Add("text", "TEXT", "The text.", &text);
  flag_set.AddFile("text-file", "Read it from a file; -: from standard input.",
                   &file);
  flag_set.Add("model", "NAME", "Whose tokenizer. Default: the only one.",
               request.mutable_model());
  flag_set.AddSwitch("parse-special-tokens",
                     "Recognise special tokens such as <|endoftext|>.",
                     &parse_special_tokens);
  VerbArguments arguments(&invocation, &flag_set, kTokenizeHelp);
  if (!arguments.Parse()) return arguments.exit_code();
  if (text.has_value() == file.has_value() || !arguments.positional().empty()) {
    return arguments.Refuse("give one of --text TEXT and --text-file FILE");
  }
  absl::StatusOr<std::string> content =
      file.has_value() ? ReadFlagFile("text-file", *file)
                       : absl::StatusOr<std::string>(*text);
  if (!content.ok()) return arguments.Refuse(content.status().message());

  request.set_text(*content);
  request.set_parse_special_tokens(parse_special_tokens);
  request.set_pieces(true);
  const GlobalFlags& global = invocation.global;
  Client client(MakeClientOptions(global));
  return ShowResponse<v1::TokenizeResponse>(
      global, client.Tokenize(request, {.deadline = global.deadline}),
      [&](const v1::TokenizeResponse& response) {
        PrintTokens(response, global.verbose);
      });
}

int RunDetokenize(Invocation invocation) {
  v1::DetokenizeRequest request;
  std::optional<std::vector<int32_t>> tokens;
  FlagSet flag_set;
  flag_set.AddTokenIds("tokens", "1,2,3", "The token ids.", &tokens);
  flag_set.Add("model", "NAME", "Whose tokenizer. Default: the only one.",
               request.mutable_model());
  VerbArguments arguments(&invocation, &flag_set, kDetokenizeHelp);
  if (!arguments.Parse()) return arguments.exit_code();
  if (!tokens.has_value() || tokens->empty() ||
      !arguments.positional().empty()) {
    return arguments.Refuse("give the token ids by --tokens 1,2,3");
  }

  request.mutable_token_ids()->Add(tokens->begin(), tokens->end());
  const GlobalFlags& global = invocation.global;
  Client client(MakeClientOptions(global));
  return ShowResponse<v1::DetokenizeResponse>(
      global, client.Detokenize(request, {.deadline = global.deadline}),
      [](const v1::DetokenizeResponse& response) { Print(response.bytes()); });
}

}  // namespace engram::client

// engram look: what a session's state holds, what it answers, where an answer
// comes from, and what it would be if a layer worked otherwise.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "clients/cpp/edit_flags.h"
#include "clients/cpp/human.h"
#include "clients/cpp/verb.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

constexpr VerbHelp kHelp = {
    "engram look (SESSION | --prompt TEXT | --tokens 1,2,3) "
    "[--query 1,2,3 | --target 7 | --ablate EDIT] [flags]",
    "Prints what each layer keeps in a session's state and how long it keeps\n"
    "it. With --query: what the model would answer if each of these tokens\n"
    "came next, and what each layer's state alone says of that. With a prompt\n"
    "and no --query: what each of its positions adds to the answer to it, by\n"
    "each layer's state, the strongest first. With --ablate: what the model\n"
    "answers with layers edited, beside what it answers without. Changes no\n"
    "session.",
    "  engram look mine\n"
    "  engram look mine --query 1,2,3 --top 3\n"
    "  engram look --model mamba-induction --prompt '1 => 7 4 3' --query 15\n"
    "  engram look --model mamba-induction --prompt '1 => 7 4 3 =>'\n"
    "  engram look mine --prompt ' and' --target 7 --against 5,6\n"
    "  engram look --model mamba-induction --prompt '1 => 7 4 3 =>' \\\n"
    "    --ablate 1:cut-tap:2\n"
    "  engram look mine --prompt ' and' --ablate 0:local-scan --max-tokens 9\n"
    "  engram look mine --json"};

// Of the part of values that are far above the median.
constexpr int kBarWidth = 10;
// Of what a position adds.
constexpr int kContributionWidth = 24;
// Positions of each state that are printed unless --top says otherwise.
constexpr int32_t kPositions = 8;

struct LookFlags {
  void AddTo(FlagSet* flags) {
    flags->AddTokenIds("query", "1,2,3", "Tokens that may come next, by id.",
                       &query);
    flags->Add("prompt", "TEXT", "Read this first, on a copy of the state.",
               &prompt);
    flags->AddTokenIds("tokens", "1,2,3", "The same as token ids.", &tokens);
    flags->Add("model", "NAME",
               "Which model. Default: the session's, or the only one served.",
               &model);
    flags->Add("top", "K",
               "Likeliest tokens of each answer, 1 to 20. Default: 1. Or "
               "strongest positions of each state. Default: 8.",
               &top);
    flags->Add("target", "ID",
               "The token whose logit the prompt's positions add to. Default: "
               "the likeliest.",
               &target);
    flags->AddTokenIds("against", "5,6",
                       "Tokens whose mean logit is taken from the target's.",
                       &against);
    flags->AddSwitch("through-convolution",
                     "Tell what a token does through a convolution of the "
                     "tokens that it read.",
                     &through_convolution);
    flags->Add(
        "ablate", "EDIT",
        "Answer with a layer edited; repeatable. LAYER:cut-tap:TAP (0 is "
        "the oldest), LAYER:local-scan, LAYER:remove-write:POSITION, "
        "LAYER:replace-write:POSITION:TOKEN, "
        "LAYER:keep-only:POSITION+POSITION (or +before: the session's "
        "past). Positions are those that --target tells of.",
        [this](absl::string_view text) {
          const auto edit = ParseEdit(text);
          if (edit.ok()) edits.push_back(*edit);
          return edit.status();
        });
    flags->AddCount("max-tokens",
                    "With --ablate: tokens of each answer. Default: 1.", 1,
                    1 << 20, &max_tokens);
    flags->Add("temperature", "T",
               "With --ablate: 0 takes the likeliest token always. Default: 0.",
               &temperature);
    flags->Add("seed", "N",
               "With --ablate: the same seed draws the same. Default: the "
               "server chooses.",
               &seed);
    flags->AddSwitch("parse-special-tokens",
                     "Recognise special tokens such as <|endoftext|>.",
                     &parse_special_tokens);
  }

  bool has_prompt() const { return prompt.has_value() || tokens.has_value(); }

  // Of what only an attribution has.
  bool has_attribution() const {
    return target.has_value() || against.has_value() || through_convolution;
  }

  // Of what only an ablation has.
  bool has_answer_flags() const {
    return max_tokens.has_value() || temperature != 0 || seed.has_value();
  }

  v1::ReadOutRequest MakeReadOut(const std::string& session) const {
    auto request = MakeRequest<v1::ReadOutRequest>(session);
    request.set_top(top);
    request.mutable_query_ids()->Add(query->begin(), query->end());
    return request;
  }
  v1::AttributeRequest MakeAttribute(const std::string& session) const {
    auto request = MakeRequest<v1::AttributeRequest>(session);
    if (target.has_value()) {
      request.set_target_id(static_cast<int32_t>(*target));
    }
    if (against.has_value()) {
      request.mutable_against_ids()->Add(against->begin(), against->end());
    }
    request.set_through_convolution(through_convolution);
    return request;
  }

  v1::AblateRequest MakeAblate(const std::string& session) const {
    auto request = MakeRequest<v1::AblateRequest>(session);
    request.mutable_edits()->Add(edits.begin(), edits.end());
    request.mutable_sampling()->set_temperature(temperature);
    if (seed.has_value()) request.mutable_sampling()->set_seed(*seed);
    request.mutable_stopping()->set_max_tokens(
        static_cast<int32_t>(max_tokens.value_or(1)));
    request.set_logprobs(std::max(top, 1));
    return request;
  }

  std::optional<std::vector<int32_t>> query;
  std::optional<std::string> prompt;
  std::optional<std::vector<int32_t>> tokens;
  std::string model;
  int32_t top = 0;
  bool parse_special_tokens = false;
  std::optional<int64_t> target;
  std::optional<std::vector<int32_t>> against;
  bool through_convolution = false;
  std::vector<v1::Edit> edits;
  std::optional<int64_t> max_tokens;
  float temperature = 0;
  std::optional<int64_t> seed;

 private:
  template <typename Request>
  Request MakeRequest(const std::string& session) const {
    Request request;
    request.set_model(model);
    request.set_session_id(session);
    request.set_parse_special_tokens(parse_special_tokens);
    if (prompt.has_value()) request.set_text(*prompt);
    if (tokens.has_value()) {
      request.mutable_token_ids()->mutable_ids()->Add(tokens->begin(),
                                                      tokens->end());
    }
    return request;
  }
};

std::string TokensText(double tokens) {
  if (!std::isfinite(tokens)) return "never";
  return tokens < 100 ? absl::StrFormat("%.1f", tokens)
                      : absl::StrFormat("%.3g", tokens);
}

std::string Bar(double part) {
  const int filled =
      std::clamp(static_cast<int>(std::ceil(part * kBarWidth)), 0, kBarWidth);
  return std::string(filled, '#') + std::string(kBarWidth - filled, '.');
}

std::string FadingText(const v1::StateSummary& state) {
  if (state.window_tokens() > 0) {
    return absl::StrCat("the last ", state.window_tokens());
  }
  if (!state.has_fading()) return "-";
  const v1::FadingTime& fading = state.fading();
  return absl::StrCat(
      TokensText(fading.tenth()), " ", TokensText(fading.median()), " ",
      TokensText(fading.nine_tenths()), " ", TokensText(fading.longest()));
}

void PrintDescription(const v1::DescribeResponse& response) {
  Print(absl::StrFormat(
      "model %s, version %d, %d tokens fed%s\n\n", response.model(),
      response.version(), response.position(),
      response.trained_tokens() > 0
          ? absl::StrCat(", trained on up to ", response.trained_tokens())
          : ""));
  Print(absl::StrFormat("%5s %-9s %-14s %9s %9s %7s %-10s %s\n", "layer",
                        "mixer", "state", "norm", "largest", "above", "",
                        "tokens kept"));
  for (const v1::StateSummary& state : response.states()) {
    Print(absl::StrFormat("%5d %-9s %-14s %9.4g %9.4g %6.2f%% %s %s\n",
                          state.layer(), state.mixer(),
                          Shortened(state.state(), 14), state.norm(),
                          state.largest(), 100 * state.share_above(),
                          Bar(state.share_above()), FadingText(state)));
  }
  Print(
      "\nabove: values above 10 times the median. tokens kept: the last ones, "
      "or until\na value has faded to 1/e: of 10 %, 50 %, 90 % and 100 % of "
      "the values");
  if (response.has_fading_token_id()) {
    Print(absl::StrCat(",\nif all tokens were as ", response.fading_token_id(),
                       " '", absl::CHexEscape(response.fading_token_text()),
                       "'"));
  }
  Print(".\n");
  for (const std::string& warning : response.warnings()) {
    Print(absl::StrCat("warning: ", warning, "\n"));
  }
}

template <typename Answer>
std::string AnswerText(const Answer& answer) {
  std::string text;
  for (const v1::Alternative& one : answer) {
    absl::StrAppend(
        &text, text.empty() ? "" : "  ",
        absl::StrFormat("%5.1f%% %d '%s'", 100 * std::exp(one.logprob()),
                        one.id(), absl::CHexEscape(one.text())));
  }
  return text;
}

void PrintReadOut(const v1::ReadOutResponse& response) {
  for (const v1::ReadOutQuery& query : response.queries()) {
    Print(absl::StrFormat("after %d '%s':\n  %-26s %s\n", query.id(),
                          absl::CHexEscape(query.text()), "the model",
                          AnswerText(query.answer())));
    for (const v1::StateReadOut& state : query.states()) {
      Print(absl::StrFormat(
          "  %-26s %s\n",
          absl::StrCat("layer ", state.layer(), " ", state.state()),
          AnswerText(state.answer())));
    }
  }
}

// A line of what adds to a logit, with a bar of pluses or minuses.
void PrintContribution(const std::string& what, float added, float largest) {
  const float part = largest > 0 ? std::abs(added) / largest : 0;
  const auto filled = static_cast<int>(std::lround(part * kContributionWidth));
  Print(absl::StrFormat("  %-24s %+10.4f %s\n", what, added,
                        std::string(filled, added < 0 ? '-' : '+')));
}

// Positions by how much they add or take, the most first.
std::vector<int> Strongest(const v1::LayerAttribution& layer, int32_t count) {
  std::vector<int> order(layer.contributions_size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int left, int right) {
    return std::abs(layer.contributions(left)) >
           std::abs(layer.contributions(right));
  });
  order.resize(std::min<size_t>(order.size(), count));
  return order;
}

void PrintState(const v1::AttributeResponse& response,
                const v1::LayerAttribution& layer, int32_t count) {
  Print(absl::StrFormat("\nlayer %d %s: %+.4f\n", layer.layer(), layer.state(),
                        layer.direct()));
  const std::vector<int> strongest = Strongest(layer, count);
  float largest = std::max({std::abs(layer.before()), std::abs(layer.local()),
                            std::abs(layer.bias())});
  if (!strongest.empty()) {
    largest = std::max(largest, std::abs(layer.contributions(strongest[0])));
  }
  for (const int position : strongest) {
    const std::string piece =
        position < response.pieces_size() ? response.pieces(position) : "";
    PrintContribution(
        absl::StrCat("position ", position, " '", absl::CHexEscape(piece), "'"),
        layer.contributions(position), largest);
  }
  PrintContribution("before", layer.before(), largest);
  PrintContribution("the last token itself", layer.local(), largest);
  if (layer.bias() != 0) {
    PrintContribution("biases of convolutions", layer.bias(), largest);
  }
}

void PrintAttribution(const v1::AttributeResponse& response, int32_t count) {
  Print(absl::StrFormat(
      "model %s, %d tokens; logit of %d '%s' %.4f", response.model(),
      response.token_ids_size(), response.target_id(),
      absl::CHexEscape(response.target_piece()), response.logit()));
  if (response.against() != 0) {
    Print(absl::StrFormat(", less %.4f", response.against()));
  }
  Print("\n");
  for (const v1::LayerAttribution& layer : response.layers()) {
    PrintState(response, layer, count);
  }
}

// The tokens of an answer, a line each: with how likely the model held it, and
// if more are asked for the others that it held likely.
void PrintAnswer(const char* name,
                 const google::protobuf::RepeatedPtrField<v1::Token>& answer) {
  Print(absl::StrCat(name, "\n"));
  for (const v1::Token& token : answer) {
    Print(absl::StrFormat("  %5d %5.1f%% %d '%s'%s\n", token.index(),
                          100 * std::exp(token.logprob()), token.id(),
                          absl::CHexEscape(token.bytes()),
                          token.top_size() > 1
                              ? absl::StrCat("   of ", AnswerText(token.top()))
                              : ""));
  }
}

void PrintAblation(const v1::AblateResponse& response) {
  Print(absl::StrFormat("model %s, %d tokens, seed %d\n\n", response.model(),
                        response.token_ids_size(), response.seed()));
  PrintAnswer("edited", response.edited());
  PrintAnswer("untouched", response.untouched());
}

}  // namespace

int RunLook(Invocation invocation) {
  LookFlags flags;
  FlagSet flag_set;
  flags.AddTo(&flag_set);
  VerbArguments arguments(&invocation, &flag_set, kHelp);
  if (!arguments.Parse()) return arguments.exit_code();
  const std::vector<std::string>& sessions = arguments.positional();
  if (sessions.size() > 1) {
    return arguments.Refuse(
        absl::StrCat("unexpected argument '", sessions[1],
                     "'; one session is looked at, then a text by --prompt"));
  }
  if (flags.prompt.has_value() && flags.tokens.has_value()) {
    return arguments.Refuse("give one of --prompt TEXT and --tokens 1,2,3");
  }
  if (sessions.empty() && !flags.has_prompt()) {
    return arguments.Refuse("look at what? give a SESSION or --prompt TEXT");
  }
  const bool has_edits = !flags.edits.empty();
  if (flags.has_attribution() &&
      (flags.query.has_value() || has_edits || !flags.has_prompt())) {
    return arguments.Refuse(
        "--target, --against and --through-convolution are of the answer to a "
        "prompt: give --prompt TEXT, no --query and no --ablate");
  }
  if (has_edits && flags.query.has_value()) {
    return arguments.Refuse("give one of --query 1,2,3 and --ablate EDIT");
  }
  if (flags.has_answer_flags() && !has_edits) {
    return arguments.Refuse(
        "--max-tokens, --temperature and --seed are of answers with layers "
        "edited: give --ablate EDIT, or use engram generate");
  }

  const GlobalFlags& global = invocation.global;
  const std::string session = sessions.empty() ? "" : sessions[0];
  Client client(MakeClientOptions(global));
  const CallOptions call = {.deadline = global.deadline};
  if (flags.query.has_value()) {
    return ShowResponse<v1::ReadOutResponse>(
        global, client.ReadOut(flags.MakeReadOut(session), call), PrintReadOut);
  }
  if (has_edits) {
    return ShowResponse<v1::AblateResponse>(
        global, client.Ablate(flags.MakeAblate(session), call), PrintAblation);
  }
  if (flags.has_prompt()) {
    const int32_t count = flags.top > 0 ? flags.top : kPositions;
    return ShowResponse<v1::AttributeResponse>(
        global, client.Attribute(flags.MakeAttribute(session), call),
        [count](const v1::AttributeResponse& response) {
          PrintAttribution(response, count);
        });
  }
  v1::DescribeRequest request;
  request.set_session_id(session);
  return ShowResponse<v1::DescribeResponse>(
      global, client.Describe(request, call), PrintDescription);
}

}  // namespace engram::client

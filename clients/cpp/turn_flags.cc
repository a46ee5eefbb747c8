#include "clients/cpp/turn_flags.h"

#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace engram::client {
namespace {

absl::Status AddLogitBias(absl::string_view text,
                          std::map<int32_t, float>* logit_bias) {
  for (absl::string_view entry : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(entry, absl::MaxSplits('=', 1));
    int32_t id = 0;
    float bias = 0;
    if (!absl::SimpleAtoi(parts.first, &id) || id < 0 ||
        !absl::SimpleAtof(parts.second, &bias) || !std::isfinite(bias)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", entry, "' is not ID=VALUE, such as 42=-5"));
    }
    (*logit_bias)[id] = bias;
  }
  return absl::OkStatus();
}

}  // namespace

void TurnFlags::AddTo(FlagSet* flags) {
  flags->Add("model", "NAME",
             "Which model. Default: the session's, or the only one served.",
             &model);
  flags->Add("session", "ID",
             "Remember what is read and said under this id, or go on from "
             "there.",
             &session);
  flags->Add("from-checkpoint", "NAME",
             "Start the new session, or this request, from a checkpoint.",
             &from_checkpoint);
  flags->Add("max-tokens", "N",
             absl::StrCat("Tokens to sample at most; 0 only feeds the prompt. "
                          "Default: ",
                          max_tokens, "."),
             &max_tokens);
  flags->Add("temperature", "T",
             absl::StrCat("0 takes the likeliest token always. Default: ",
                          temperature, "."),
             &temperature);
  flags->Add("top-k", "K", "Sample among the K likeliest only. 0: off.",
             &top_k);
  flags->Add("top-p", "P",
             "Sample among the likeliest that together have this probability. "
             "0: off.",
             &top_p);
  flags->Add("min-p", "P",
             "Drop tokens below this share of the best one's probability.",
             &min_p);
  flags->Add("repetition-penalty", "X",
             "Divides the logits of what the session has read or said. 0: off.",
             &repetition_penalty);
  flags->Add("presence-penalty", "X",
             "Subtracted from the logits of what this answer has said.",
             &presence_penalty);
  flags->Add("frequency-penalty", "X", "The same, as often as it was said.",
             &frequency_penalty);
  flags->Add("logit-bias", "ID=VALUE",
             "Added to the logit of a token; repeatable, or with commas.",
             [this](absl::string_view text) {
               return AddLogitBias(text, &logit_bias);
             });
  flags->Add("seed", "N",
             "The same seed and request give the same answer. Default: the "
             "server chooses.",
             &seed);
  flags->AddEscaped("stop", "TEXT",
                    "End before this text; repeatable. \\n is a line break.",
                    &stop);
  flags->AddTokenIds("stop-token-id", "ID",
                     "End after this token; repeatable, or with commas.",
                     &stop_token_ids);
  flags->AddSwitch("ignore-eos", "Do not end at the model's own end of text.",
                   &ignore_eos);
  flags->AddSwitch("keep-partial",
                   "If the turn is cut short by Ctrl-C, a deadline or the "
                   "server going down, keep what was said by then.",
                   &keep_partial);
  flags->AddSwitch("parse-special-tokens",
                   "Recognise special tokens such as <|endoftext|> in texts.",
                   &parse_special_tokens);
  flags->Add("logprobs", "K",
             "With --json: the log-probability of each token and of the K "
             "likeliest, 1 to 20.",
             &logprobs);
  flags->Add("priority", "N",
             "Higher starts first when requests wait, -100 to 100.", &priority);
}

v1::GenerateRequest TurnFlags::MakeRequest() const {
  v1::GenerateRequest request;
  request.set_model(model);
  request.set_session_id(session);
  request.set_from_checkpoint(from_checkpoint);
  request.set_keep_partial(keep_partial);
  request.set_logprobs(logprobs);
  request.set_priority(priority);
  request.set_parse_special_tokens(parse_special_tokens);

  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(temperature);
  sampling.set_top_k(top_k);
  sampling.set_top_p(top_p);
  sampling.set_min_p(min_p);
  sampling.set_repetition_penalty(repetition_penalty);
  sampling.set_presence_penalty(presence_penalty);
  sampling.set_frequency_penalty(frequency_penalty);
  if (seed.has_value()) sampling.set_seed(*seed);
  sampling.mutable_logit_bias()->insert(logit_bias.begin(), logit_bias.end());

  v1::Stopping& stopping = *request.mutable_stopping();
  stopping.set_max_tokens(max_tokens);
  stopping.set_ignore_eos(ignore_eos);
  stopping.mutable_stop()->Add(stop.begin(), stop.end());
  stopping.mutable_stop_token_ids()->Add(stop_token_ids.begin(),
                                         stop_token_ids.end());
  return request;
}

}  // namespace engram::client

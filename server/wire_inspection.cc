#include "server/wire_inspection.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/status.h"
#include "model/sampling.h"
#include "server/turn_text.h"
#include "server/wire.h"
#include "server/wire_fields.h"

namespace engram {
namespace {

absl::Status CheckIds(const std::string& field, absl::Span<const int32_t> ids,
                      const ServedModel& model) {
  const int64_t known = model.info().vocabulary_size;
  for (size_t i = 0; i < ids.size(); ++i) {
    ENGRAM_RETURN_IF_ERROR(
        CheckRange(absl::StrCat(field, "[", i, "]"), ids[i], 0, known - 1));
  }
  return absl::OkStatus();
}

template <typename Message>
absl::StatusOr<std::vector<int32_t>> ReadInspectedPrompt(
    const Message& message, const ServedModel& model,
    const ServerOptions& limits, const WorkCheck::Ask& may_go_on) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> prompt,
                          ReadPrompt(message, model, may_go_on));
  const auto tokens = static_cast<int64_t>(prompt.size());
  if (tokens > limits.max_inspected_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt has ", tokens, " tokens, limit ",
        limits.max_inspected_tokens,
        " (--max-inspected-tokens); feed a longer one to a session by Generate "
        "with max_tokens 0 and look at that"));
  }
  ENGRAM_RETURN_IF_ERROR(CheckIds("prompt token", prompt, model));
  return prompt;
}

// Where, in a message.
std::string PlaceOf(int edit, absl::string_view field) {
  return absl::StrCat("edits[", edit, "].", field);
}

// What can be told to be wrong without the tokens that are fed.
absl::StatusOr<LayerEdit> ReadEdit(const v1::Edit& message, int place,
                                   const ServedModel& model,
                                   const ServerOptions& limits) {
  ENGRAM_RETURN_IF_ERROR(CheckRange(PlaceOf(place, "layer"), message.layer(), 0,
                                    model.info().layers - 1));
  LayerEdit edit;
  edit.layer = message.layer();
  switch (message.edit_case()) {
    case v1::Edit::kCutTap:
      edit.kind = LayerEdit::Kind::kCutTap;
      edit.tap = message.cut_tap().tap();
      return edit;
    case v1::Edit::kLocalScan:
      edit.kind = LayerEdit::Kind::kLocalScan;
      return edit;
    case v1::Edit::kRemoveWrite:
      edit.kind = LayerEdit::Kind::kRemoveWrite;
      edit.position = message.remove_write().position();
      return edit;
    case v1::Edit::kReplaceWrite:
      edit.kind = LayerEdit::Kind::kReplaceWrite;
      edit.position = message.replace_write().position();
      edit.token = message.replace_write().token_id();
      ENGRAM_RETURN_IF_ERROR(
          CheckRange(PlaceOf(place, "replace_write.token_id"), edit.token, 0,
                     model.info().vocabulary_size - 1));
      return edit;
    case v1::Edit::kKeepOnly:
      edit.kind = LayerEdit::Kind::kKeepOnly;
      ENGRAM_RETURN_IF_ERROR(CheckCount(PlaceOf(place, "keep_only.positions"),
                                        message.keep_only().positions_size(),
                                        limits.max_inspected_tokens,
                                        "--max-inspected-tokens"));
      edit.positions.assign(message.keep_only().positions().begin(),
                            message.keep_only().positions().end());
      edit.keeps_before = message.keep_only().before();
      return edit;
    case v1::Edit::EDIT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "edits[", place,
      "] says nothing to do; set one of cut_tap, local_scan, remove_write, "
      "replace_write and keep_only"));
}

// Reads an answer for the strings that end it.
std::function<bool(int32_t id)> ReaderFor(
    const Tokenizer* tokenizer, const std::vector<std::string>& stop) {
  return [text = std::make_shared<TurnText>(tokenizer, stop)](int32_t id) {
    return text->Append(id).stopped;
  };
}

// The pieces of what was fed, as far as there is a tokenizer.
template <typename Response>
void AddFed(const std::vector<int32_t>& tokens, const Tokenizer* tokenizer,
            Response* response) {
  response->mutable_token_ids()->Add(tokens.begin(), tokens.end());
  if (tokenizer == nullptr) return;
  for (const int32_t id : tokens) {
    response->add_pieces(tokenizer->Bytes(id, response->pieces_size() == 0));
  }
}

void AddAnswer(const std::vector<AnsweredToken>& answer,
               const std::vector<std::string>& stop, bool has_logprobs,
               const Tokenizer* tokenizer,
               google::protobuf::RepeatedPtrField<v1::Token>* tokens) {
  TurnText text(tokenizer, stop);
  for (const AnsweredToken& one : answer) {
    SampledToken token;
    token.index = tokens->size();
    token.id = one.id;
    token.is_stop_token = one.stops;
    if (has_logprobs) {
      token.logprob = one.log_probability;
      token.top = one.top;
    }
    token.Read(&text);
    *tokens->Add() = ToMessage(MakeTokenEvent(std::move(token), tokenizer));
  }
  if (!tokens->empty()) {
    tokens->rbegin()->mutable_text()->append(text.Flush());
  }
}

}  // namespace

absl::StatusOr<InspectionQuestion> ToQuestion(const v1::ReadOutRequest& message,
                                              const ServedModel& model,
                                              const ServerOptions& limits,
                                              const WorkCheck::Ask& may_go_on) {
  ENGRAM_RETURN_IF_ERROR(CheckCount("query_ids", message.query_ids_size(),
                                    limits.max_inspected_queries,
                                    "--max-inspected-queries"));
  if (message.query_ids_size() == 0) {
    return absl::InvalidArgumentError(
        "query_ids is empty; name the tokens that may come next");
  }
  ENGRAM_RETURN_IF_ERROR(
      CheckRange("top", message.top(), 0, limits.max_logprobs));
  InspectionQuestion question;
  question.alternatives = std::max(message.top(), 1);
  ENGRAM_ASSIGN_OR_RETURN(
      question.tokens, ReadInspectedPrompt(message, model, limits, may_go_on));
  if (question.tokens.empty() && message.session_id().empty()) {
    return absl::InvalidArgumentError(
        "there is nothing to look at: name a session_id or give a prompt");
  }
  question.queries.assign(message.query_ids().begin(),
                          message.query_ids().end());
  ENGRAM_RETURN_IF_ERROR(CheckIds("query_ids", question.queries, model));
  return question;
}

absl::StatusOr<InspectionQuestion> ToQuestion(
    const v1::AttributeRequest& message, const ServedModel& model,
    const ServerOptions& limits, const WorkCheck::Ask& may_go_on) {
  ENGRAM_RETURN_IF_ERROR(CheckCount("against_ids", message.against_ids_size(),
                                    limits.max_inspected_queries,
                                    "--max-inspected-queries"));
  AttributionQuestion attribution;
  if (message.has_target_id()) {
    ENGRAM_RETURN_IF_ERROR(CheckRange("target_id", message.target_id(), 0,
                                      model.info().vocabulary_size - 1));
    attribution.target = message.target_id();
  }
  attribution.against.assign(message.against_ids().begin(),
                             message.against_ids().end());
  ENGRAM_RETURN_IF_ERROR(CheckIds("against_ids", attribution.against, model));
  attribution.through_convolution = message.through_convolution();
  InspectionQuestion question;
  ENGRAM_ASSIGN_OR_RETURN(
      question.tokens, ReadInspectedPrompt(message, model, limits, may_go_on));
  if (question.tokens.empty()) {
    return absl::InvalidArgumentError(
        "the prompt is empty; its last token is the one whose answer is "
        "attributed");
  }
  question.attribution = std::move(attribution);
  return question;
}

absl::StatusOr<InspectionQuestion> ToQuestion(const v1::AblateRequest& message,
                                              const ServedModel& model,
                                              const ServerOptions& limits,
                                              const WorkCheck::Ask& may_go_on) {
  ENGRAM_RETURN_IF_ERROR(CheckCount("edits", message.edits_size(),
                                    limits.max_edits, "--max-edits"));
  AblationQuestion ablation;
  for (int i = 0; i < message.edits_size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(LayerEdit edit,
                            ReadEdit(message.edits(i), i, model, limits));
    ablation.edits.push_back(std::move(edit));
  }
  ENGRAM_ASSIGN_OR_RETURN(ablation.sampling,
                          ReadSampling(message.sampling(), limits));
  ENGRAM_RETURN_IF_ERROR(
      Validate(ablation.sampling, model.info().vocabulary_size));
  ablation.sampling.seed =
      message.sampling().has_seed()
          ? static_cast<uint64_t>(message.sampling().seed())
          : absl::Uniform<uint64_t>(absl::BitGen());
  ENGRAM_RETURN_IF_ERROR(CheckRange("max_tokens",
                                    message.stopping().max_tokens(), 0,
                                    limits.max_inspected_tokens));
  ENGRAM_ASSIGN_OR_RETURN(Stopping stopping,
                          ReadStopping(message.stopping(), model, limits));
  ablation.max_tokens = std::max<int64_t>(stopping.max_tokens, 1);
  ablation.stop_ids = std::move(stopping.end_of_text_ids);
  ablation.stop_ids.insert(ablation.stop_ids.end(),
                           stopping.stop_token_ids.begin(),
                           stopping.stop_token_ids.end());
  if (!stopping.stop.empty()) {
    ablation.reader = [tokenizer = model.tokenizer.get(),
                       stop = std::move(stopping.stop)] {
      return ReaderFor(tokenizer, stop);
    };
  }
  ENGRAM_RETURN_IF_ERROR(
      CheckRange("logprobs", message.logprobs(), 0, limits.max_logprobs));
  ablation.alternatives = message.logprobs();
  InspectionQuestion question;
  ENGRAM_ASSIGN_OR_RETURN(
      question.tokens, ReadInspectedPrompt(message, model, limits, may_go_on));
  if (question.tokens.empty() && message.session_id().empty()) {
    return absl::InvalidArgumentError(
        "there is nothing to feed: name a session_id or give a prompt");
  }
  question.ablation = std::move(ablation);
  return question;
}

v1::StateSummary ToMessage(const StateSummary& summary) {
  v1::StateSummary message;
  message.set_layer(static_cast<int32_t>(summary.layer));
  message.set_mixer(summary.mixer);
  message.set_state(summary.state);
  message.set_values(summary.values);
  message.set_norm(summary.norm);
  message.set_median(summary.median);
  message.set_largest(summary.largest);
  message.set_share_above(summary.share_above);
  message.set_window_tokens(summary.window_tokens);
  if (summary.fading.longest > 0) {
    v1::FadingTime& fading = *message.mutable_fading();
    fading.set_tenth(summary.fading.tenth);
    fading.set_median(summary.fading.median);
    fading.set_nine_tenths(summary.fading.nine_tenths);
    fading.set_longest(summary.fading.longest);
  }
  return message;
}

v1::ReadOutQuery ToMessage(const QueryAnswer& answer,
                           const Tokenizer* tokenizer) {
  v1::ReadOutQuery message;
  message.set_id(answer.id);
  message.set_text(TextOf(tokenizer, answer.id));
  AddAlternatives(answer.top, tokenizer, message.mutable_answer());
  for (const LayerAnswer& layer : answer.layers) {
    v1::StateReadOut& state = *message.add_states();
    state.set_layer(static_cast<int32_t>(layer.layer));
    state.set_mixer(layer.mixer);
    state.set_state(layer.state);
    AddAlternatives(layer.top, tokenizer, state.mutable_answer());
  }
  return message;
}

v1::AttributeResponse ToMessage(const Attribution& attribution,
                                const Tokenizer* tokenizer) {
  v1::AttributeResponse message;
  message.set_target_id(attribution.target);
  message.set_logit(attribution.logit);
  message.set_against(attribution.against);
  if (tokenizer != nullptr) {
    message.set_target_piece(tokenizer->Bytes(attribution.target, false));
  }
  AddFed(attribution.tokens, tokenizer, &message);
  for (const LayerAttribution& layer : attribution.layers) {
    v1::LayerAttribution& one = *message.add_layers();
    one.set_layer(static_cast<int32_t>(layer.layer));
    one.set_mixer(layer.mixer);
    one.set_state(layer.state);
    one.mutable_contributions()->Add(layer.contributions.begin(),
                                     layer.contributions.end());
    one.set_before(layer.before);
    one.set_local(layer.local);
    one.set_bias(layer.bias);
    one.set_direct(layer.direct);
  }
  return message;
}

v1::AblateResponse ToMessage(const Ablation& ablation,
                             const std::vector<std::string>& stop,
                             bool has_logprobs, const Tokenizer* tokenizer) {
  v1::AblateResponse message;
  AddFed(ablation.tokens, tokenizer, &message);
  AddAnswer(ablation.edited, stop, has_logprobs, tokenizer,
            message.mutable_edited());
  AddAnswer(ablation.untouched, stop, has_logprobs, tokenizer,
            message.mutable_untouched());
  return message;
}

}  // namespace engram

#include "server/wire_inspection.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "kernels/status.h"
#include "server/turn_text.h"
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
  message.mutable_token_ids()->Add(attribution.tokens.begin(),
                                   attribution.tokens.end());
  if (tokenizer != nullptr) {
    message.set_target_piece(tokenizer->Bytes(attribution.target, false));
    for (const int32_t id : attribution.tokens) {
      message.add_pieces(tokenizer->Bytes(id, message.pieces_size() == 0));
    }
  }
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

}  // namespace engram

// Between the messages of engram.v1.Inspection and what a server looks into.
//
// Thread-safe: pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engram/v1/inspection.pb.h"
#include "model/inspection.h"
#include "model/tokenizer.h"
#include "server/options.h"
#include "server/served_model.h"

namespace engram {

// What is to be looked into, without the session's state. INVALID_ARGUMENT
// names field, value and limit; FAILED_PRECONDITION: text to a model without
// tokenizer; what `may_go_on` says while a text is tokenised.
absl::StatusOr<InspectionQuestion> ToQuestion(const v1::ReadOutRequest& message,
                                              const ServedModel& model,
                                              const ServerOptions& limits,
                                              const WorkCheck::Ask& may_go_on);
absl::StatusOr<InspectionQuestion> ToQuestion(
    const v1::AttributeRequest& message, const ServedModel& model,
    const ServerOptions& limits, const WorkCheck::Ask& may_go_on);

// The seed is that of the message, or drawn.
absl::StatusOr<InspectionQuestion> ToQuestion(const v1::AblateRequest& message,
                                              const ServedModel& model,
                                              const ServerOptions& limits,
                                              const WorkCheck::Ask& may_go_on);

v1::StateSummary ToMessage(const StateSummary& summary);
// `tokenizer` may be nullptr: then there are no texts.
v1::ReadOutQuery ToMessage(const QueryAnswer& answer,
                           const Tokenizer* tokenizer);
// All but the model, and the state's version and position.
v1::AttributeResponse ToMessage(const Attribution& attribution,
                                const Tokenizer* tokenizer);
// Likewise, and all but the seed. `stop` are the strings that end an answer;
// `has_logprobs`: they were asked for.
v1::AblateResponse ToMessage(const Ablation& ablation,
                             const std::vector<std::string>& stop,
                             bool has_logprobs, const Tokenizer* tokenizer);

}  // namespace engram

// Fields that messages of several services have.
//
// Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engram/v1/generation.pb.h"
#include "model/quoted.h"
#include "model/sampling.h"
#include "model/tokenizer.h"
#include "server/options.h"
#include "server/request.h"
#include "server/served_model.h"

namespace engram {

// INVALID_ARGUMENT names field, value and limits.
absl::Status CheckRange(absl::string_view field, int64_t value, int64_t least,
                        int64_t most);
// The same; `flag` is the one that sets the limit.
absl::Status CheckCount(absl::string_view field, int64_t count, int64_t most,
                        absl::string_view flag);

// What is too much is INVALID_ARGUMENT; the seed is left at 0, and whether the
// numbers are within their limits is Validate()'s affair (model/sampling.h).
absl::StatusOr<SamplingParameters> ReadSampling(const v1::Sampling& message,
                                                const ServerOptions& limits);
// INVALID_ARGUMENT; FAILED_PRECONDITION: stop strings to a model without
// tokenizer.
absl::StatusOr<Stopping> ReadStopping(const v1::Stopping& message,
                                      const ServedModel& model,
                                      const ServerOptions& limits);

// Ids of the likeliest tokens; without texts if `tokenizer` is nullptr.
void AddAlternatives(
    const std::vector<LogProbability>& top, const Tokenizer* tokenizer,
    google::protobuf::RepeatedPtrField<v1::Alternative>* alternatives);

// The prompt of a message, tokenised if it is a text. FAILED_PRECONDITION: the
// model has no tokenizer; what `may_go_on` says meanwhile.
template <typename Message>
absl::StatusOr<std::vector<int32_t>> ReadPrompt(
    const Message& message, const ServedModel& model,
    const WorkCheck::Ask& may_go_on) {
  if (message.has_token_ids()) {
    return std::vector<int32_t>(message.token_ids().ids().begin(),
                                message.token_ids().ids().end());
  }
  if (!message.has_text() || message.text().empty()) {
    return std::vector<int32_t>();
  }
  if (model.tokenizer == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("model ", Quoted(model.name),
                     " has no tokenizer: send token_ids instead of text"));
  }
  WorkCheck check(may_go_on);
  return model.tokenizer->Encode(message.text(), message.parse_special_tokens(),
                                 &check);
}

}  // namespace engram

#include "server/wire_fields.h"

#include "kernels/status.h"
#include "server/turn_text.h"

namespace engram {

absl::Status CheckRange(absl::string_view field, int64_t value, int64_t least,
                        int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ", limit ", least, " to ", most));
}

absl::Status CheckCount(absl::string_view field, int64_t count, int64_t most,
                        absl::string_view flag) {
  if (count <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      field, " has ", count, " entries, limit ", most, " (", flag, ")"));
}

absl::StatusOr<SamplingParameters> ReadSampling(const v1::Sampling& message,
                                                const ServerOptions& limits) {
  ENGRAM_RETURN_IF_ERROR(CheckCount("sampling.logit_bias",
                                    message.logit_bias_size(),
                                    limits.max_logit_bias, "--max-logit-bias"));
  SamplingParameters sampling;
  sampling.temperature = message.temperature();
  sampling.top_k = message.top_k();
  sampling.top_p = message.top_p() == 0 ? 1 : message.top_p();
  sampling.min_p = message.min_p();
  sampling.repetition_penalty =
      message.repetition_penalty() == 0 ? 1 : message.repetition_penalty();
  sampling.presence_penalty = message.presence_penalty();
  sampling.frequency_penalty = message.frequency_penalty();
  for (const auto& [id, bias] : message.logit_bias()) {
    sampling.logit_bias[id] = bias;
  }
  return sampling;
}

absl::StatusOr<Stopping> ReadStopping(const v1::Stopping& message,
                                      const ServedModel& model,
                                      const ServerOptions& limits) {
  ENGRAM_RETURN_IF_ERROR(CheckRange("max_tokens", message.max_tokens(), 0,
                                    limits.max_generated_tokens));
  ENGRAM_RETURN_IF_ERROR(CheckCount("stop", message.stop_size(),
                                    limits.max_stop_strings,
                                    "--max-stop-strings"));
  ENGRAM_RETURN_IF_ERROR(
      CheckCount("stop_token_ids", message.stop_token_ids_size(),
                 limits.max_stop_token_ids, "--max-stop-token-ids"));
  if (message.stop_size() > 0 && model.tokenizer == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "model ", Quoted(model.name),
        " has no tokenizer: use stop_token_ids instead of stop strings"));
  }
  Stopping stopping;
  stopping.max_tokens = message.max_tokens();
  for (const std::string& stop : message.stop()) {
    if (stop.empty() ||
        static_cast<int64_t>(stop.size()) > limits.max_stop_string_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a stop string has ", stop.size(), " bytes, limit 1 to ",
          limits.max_stop_string_bytes, " (--max-stop-string-bytes)"));
    }
    stopping.stop.push_back(stop);
  }
  stopping.stop_token_ids.assign(message.stop_token_ids().begin(),
                                 message.stop_token_ids().end());
  stopping.ignore_eos = message.ignore_eos();
  if (!stopping.ignore_eos) stopping.end_of_text_ids = model.eos_token_ids;
  return stopping;
}

void AddAlternatives(
    const std::vector<LogProbability>& top, const Tokenizer* tokenizer,
    google::protobuf::RepeatedPtrField<v1::Alternative>* alternatives) {
  for (const LogProbability& one : top) {
    v1::Alternative& alternative = *alternatives->Add();
    alternative.set_id(one.id);
    alternative.set_text(TextOf(tokenizer, one.id));
    alternative.set_logprob(one.value);
  }
}

}  // namespace engram

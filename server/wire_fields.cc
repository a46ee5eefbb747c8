#include "server/wire_fields.h"

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

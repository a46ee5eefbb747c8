// Replay: the answer of a turn that has committed, told again from its record.
//
// Not thread-safe; one per call.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "server/request.h"
#include "server/turn_record.h"
#include "server/turn_text.h"

namespace engram {

class Replay {
 public:
  // `request` is the repeat: its received tokens are not told again.
  // FAILED_PRECONDITION if they are not how the record begins; INTERNAL: see
  // status().
  static absl::StatusOr<std::unique_ptr<Replay>> Create(
      std::shared_ptr<const TurnRecord> record, const Request& request,
      const Tokenizer* tokenizer);

  // False after Completed, or when the record turns out to be none of this
  // request: a stop before its last token.
  bool Next(Event* event);
  // INTERNAL in the latter case.
  const absl::Status& status() const { return status_; }

  const TurnRecord& record() const { return *record_; }

 private:
  Replay(std::shared_ptr<const TurnRecord> record, const Request& request,
         const Tokenizer* tokenizer);

  // nullopt, with status_ set, if the record does not fit.
  std::optional<TokenEvent> NextToken();

  const std::shared_ptr<const TurnRecord> record_;
  const Stopping stopping_;
  const Tokenizer* const tokenizer_;
  TurnText text_;
  size_t next_ = 0;  // of the record's tokens
  bool started_ = false;
  bool completed_ = false;
  absl::Status status_;
};

}  // namespace engram

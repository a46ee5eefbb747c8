// TurnRecord: the answer of a session's last turn, kept for a repeat of its
// request.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "model/sampling.h"
#include "server/request.h"
#include "server/request_identity.h"

namespace engram {

struct TurnRecord {
  std::string request_id;
  RequestIdentity identity = {};
  StartedEvent started;
  std::vector<int32_t> tokens;
  // Empty unless asked for. Received tokens, the first ones, have none.
  std::vector<float> logprobs;
  // So many for each of logprobs; fewer end with ids of -1.
  std::vector<LogProbability> top;
  CompletedEvent completed;  // but for its text, which follows from the tokens
  // False: it grew beyond SessionLimits::answer_bytes, and only its id is
  // remembered.
  bool whole = true;

  // The alternatives of the token that logprobs[index] is of.
  absl::Span<const LogProbability> TopOf(size_t index) const;
  // What it takes of the heap, made by std::make_shared.
  size_t bytes() const;
};

}  // namespace engram

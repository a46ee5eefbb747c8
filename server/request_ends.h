// RequestEnds: how calls can end, by method. A counter of each exists from the
// start at 0, or the first error of its kind could not be told from a counter
// that was always there.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace engram {

struct RequestEnd {
  std::string method;         // RequestSummary::method
  std::string finish_reason;  // RequestSummary::finish_reason
  absl::StatusCode code = absl::StatusCode::kOk;
};

// Of calls to one model.
const std::vector<RequestEnd>& EndsOfModelCalls();
// Of calls that are about no model, and of those that name none that is served.
const std::vector<RequestEnd>& EndsWithoutModel();
// Of calls whose caller is not let in, on a server with keys.
std::vector<RequestEnd> EndsOfRefusedCallers();

}  // namespace engram

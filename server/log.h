// Log: one line of JSON per event on standard error, for machines and people.
//
// Thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "server/request.h"

namespace engram {

using LogValue = std::variant<std::string, int64_t, double>;
using LogFields = std::vector<std::pair<std::string_view, LogValue>>;

// {"time":…,"event":"…", fields…} in the order given.
std::string LogLine(absl::Time time, std::string_view event,
                    const LogFields& fields);
// The same, written to standard error in one piece.
void Log(std::string_view event, const LogFields& fields);

// The line of one ended request.
LogFields DescribeRequest(const RequestSummary& request);

}  // namespace engram

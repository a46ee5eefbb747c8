// Log: one line of JSON per event on standard error, for machines and people.
//
// Nobody waits for whoever reads it: lines go through a LogWriter, which drops
// and counts what does not fit.
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

enum class LogLevel {
  kInfo,
  kWarning,  // goes on, but somebody should look
  kError,    // something failed for good
};

// {"time":…,"level":"…","event":"…", fields…} in the order given.
std::string LogLine(absl::Time time, LogLevel level, std::string_view event,
                    const LogFields& fields);
// The same, written to standard error soon.
void Log(LogLevel level, std::string_view event, const LogFields& fields);
// At level kInfo.
void Log(std::string_view event, const LogFields& fields);

// Bytes of lines that may wait to be written.
void SetLogMemory(size_t bytes);
// Lines that were not written, since the process began.
int64_t LogLinesDropped();
// Waits until all is written, for so long at most. False: it is not.
bool FlushLog(absl::Duration limit);

// From now on, what anybody prints to `stderr` (a broken invariant, an
// exception that nobody caught) is the message of an event "stderr" instead,
// and written before the call returns or in vain for a second. For main.
void LogStandardError();

// The line of one ended request, and its level.
LogFields DescribeRequest(const RequestSummary& request);
LogLevel RequestLevel(const RequestSummary& request);

}  // namespace engram

// How the programs begin and end: their environment, their exit codes, and what
// they say of wrong use and of calls that failed.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "clients/cpp/caller_options.h"

namespace engram::client {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

// The whole of main(): `run` with the arguments after the program's name,
// unless they begin with --version, which is answered here, or the environment
// has an ENGRAM_ variable that is none or is wrong. Fails if something that was
// printed could not be written.
int RunClientProgram(
    absl::string_view program, int argc, char** argv,
    const std::function<int(const std::vector<std::string>&)>& run);

// Both say it on standard error, after the name of the program, and return the
// exit code.
int RefuseUse(absl::string_view program, absl::string_view message);
// With what may be done about it; --help is asked of `command`, such as
// "engram generate".
int ReportFailedCall(absl::string_view program, absl::string_view command,
                     const absl::Status& status, absl::string_view server);

// Says there what is unwise about how a server is called, if anything is.
void WarnOfCaller(absl::string_view program, const CallerOptions& caller);

}  // namespace engram::client

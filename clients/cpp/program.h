// How the programs end: their exit codes, and what they say of wrong use and of
// calls that failed.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace engram {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

// Both say it on standard error, after the name of the program, and return the
// exit code.
int RefuseUse(absl::string_view program, absl::string_view message);
int ReportFailedCall(absl::string_view program, const absl::Status& status,
                     absl::string_view server);

}  // namespace engram

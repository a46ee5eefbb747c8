#include "clients/cpp/program.h"

#include <cstdio>

#include "absl/strings/str_format.h"

namespace engram {

int RefuseUse(absl::string_view program, absl::string_view message) {
  absl::FPrintF(stderr, "%s: %s\n`%s --help` tells more.\n", program, message,
                program);
  return kExitUsage;
}

int ReportFailedCall(absl::string_view program, const absl::Status& status,
                     absl::string_view server) {
  absl::FPrintF(stderr,
                "%s: %s: %s\n  the server is %s; name another "
                "with --server HOST:PORT\n",
                program, absl::StatusCodeToString(status.code()),
                status.message(), server);
  return kExitFailed;
}

}  // namespace engram

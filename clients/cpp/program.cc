#include "clients/cpp/program.h"

#include <openssl/crypto.h>

#include <cstdio>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cpp/advice.h"
#include "clients/cpp/api_key.h"
#include "clients/cpp/server_address.h"
#include "tools/shell/environment.h"
#include "tools/shell/standard_output.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

// Variables of the server's flags, as its own table has them.
const std::string kFlagVariables[] = {
#include "flag_variables.inc"
};

absl::Status CheckClientEnvironment() {
  ENGRAM_RETURN_IF_ERROR(
      CheckEnvironment(CurrentEnvironment(), kFlagVariables));
  bool value = false;
  const std::string tls = EnvironmentVariable(kTlsVariable);
  if (!tls.empty() && !absl::SimpleAtob(tls, &value)) {
    return absl::InvalidArgumentError(
        absl::StrCat(kTlsVariable, ": '", tls, "' is not true or false"));
  }
  const std::string server = EnvironmentVariable(kServerVariable);
  if (server.empty()) return absl::OkStatus();
  const absl::Status status = ParseServerAddress(server).status();
  if (status.ok()) return status;
  return absl::InvalidArgumentError(
      absl::StrCat(kServerVariable, ": ", status.message()));
}

}  // namespace

int RunClientProgram(
    absl::string_view program, int argc, char** argv,
    const std::function<int(const std::vector<std::string>&)>& run) {
  // What gRPC has to say of broken connections we say ourselves, in words.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  // Threads of gRPC's may still be in the middle of a handshake when the
  // program ends: OpenSSL must not clean up under them.
  OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);
  return RunProgram(program, [&] {
    if (argc > 1 && absl::string_view(argv[1]) == "--version") {
      Print(absl::StrCat(program, " " ENGRAM_VERSION "\n"));
      return kExitOk;
    }
    const absl::Status status = CheckClientEnvironment();
    if (!status.ok()) return RefuseUse(program, status.message());
    return run(std::vector<std::string>(argv + 1, argv + argc));
  });
}

int RefuseUse(absl::string_view program, absl::string_view message) {
  absl::FPrintF(stderr, "%s: %s\n`%s --help` tells more.\n", program, message,
                program);
  return kExitUsage;
}

int ReportFailedCall(absl::string_view program, absl::string_view command,
                     const absl::Status& status, absl::string_view server) {
  absl::FPrintF(stderr, "%s: %s: %s\n", program,
                absl::StatusCodeToString(status.code()), status.message());
  const std::string advice = Advice(status, command, server);
  if (!advice.empty()) absl::FPrintF(stderr, "  %s\n", advice);
  return kExitFailed;
}

void WarnOfCaller(absl::string_view program, const CallerOptions& caller) {
  const std::string warning = ApiKeyWarning(caller.api_key_file);
  if (!warning.empty()) {
    absl::FPrintF(stderr, "%s: warning: %s\n", program, warning);
  }
}

}  // namespace engram::client

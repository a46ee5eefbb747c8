// Environment variables of Engram's programs: a misspelt one must not be
// ignored in silence.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace engram {

// Where the client programs find the server.
inline constexpr char kServerVariable[] = "ENGRAM_SERVER";
// How they speak TLS to it (clients/cpp/tls_options.h).
inline constexpr char kTlsVariable[] = "ENGRAM_TLS";
inline constexpr char kCaVariable[] = "ENGRAM_CA";
inline constexpr char kCertificateVariable[] = "ENGRAM_CERTIFICATE";
inline constexpr char kKeyVariable[] = "ENGRAM_KEY";
inline constexpr char kServerNameVariable[] = "ENGRAM_SERVER_NAME";
// As whom they call it (clients/cpp/caller_options.h).
inline constexpr char kApiKeyFileVariable[] = "ENGRAM_API_KEY_FILE";
inline constexpr char kTenantVariable[] = "ENGRAM_TENANT";

// What a variable of this process says; one that is not set, or to nothing,
// says "".
std::string EnvironmentVariable(const char* name);

// The environment of this process: "NAME=value".
std::vector<std::string> CurrentEnvironment();

// Whether every variable in `environment` whose name begins with ENGRAM_ is
// known to one of the programs: `flag_variables` (those of the server's flags),
// those of the clients above, those of the build scripts, ENGRAM_TEST_...,
// ENGRAM_EMULATION_..., or what Kubernetes sets for a service whose name begins
// with "engram". All programs take all of them, since they may share one
// environment. Errors: INVALID_ARGUMENT with the name and the one that may have
// been meant.
absl::Status CheckEnvironment(absl::Span<const std::string> environment,
                              absl::Span<const std::string> flag_variables);

}  // namespace engram

#include "tools/shell/environment.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "tools/shell/closest_word.h"

namespace engram {
namespace {

constexpr absl::string_view kPrefix = "ENGRAM_";
constexpr absl::string_view kTestPrefix = "ENGRAM_TEST_";
constexpr absl::string_view kEmulationPrefix = "ENGRAM_EMULATION_";

// Known to programs and scripts beside the server.
constexpr const char* kOtherVariables[] = {
    kServerVariable,
    kTlsVariable,
    kCaVariable,
    kCertificateVariable,
    kKeyVariable,
    kServerNameVariable,
    kApiKeyFileVariable,
    kTenantVariable,
    "ENGRAM_DEBIAN_MIRROR",
    "ENGRAM_PROXY",
    "ENGRAM_SIMULATION_SEEDS",
};

// Kubernetes gives every pod the addresses of all services, for one named
// "engram": ENGRAM_SERVICE_HOST, ENGRAM_SERVICE_PORT_GRPC,
// ENGRAM_PORT=tcp://10.0.0.1:8001, ENGRAM_PORT_8001_TCP_ADDR and so on.
bool IsServiceAddress(absl::string_view name, absl::string_view value) {
  if (absl::EndsWith(name, "_SERVICE_HOST") ||
      absl::StrContains(name, "_SERVICE_PORT")) {
    return true;
  }
  if (absl::EndsWith(name, "_PORT") && absl::StrContains(value, "://")) {
    return true;
  }
  for (absl::string_view protocol : {"_TCP", "_UDP", "_SCTP"}) {
    if (absl::StrContains(name, "_PORT_") &&
        absl::StrContains(name, protocol)) {
      return true;
    }
  }
  return false;
}

// Compared without what all names have in common: that is always near.
absl::Status Unknown(absl::string_view name,
                     absl::Span<const std::string> known) {
  std::vector<std::string> candidates;
  for (absl::string_view one : known) {
    candidates.emplace_back(absl::StripPrefix(one, kPrefix));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "the environment variable ", name.substr(0, 64), " is that of no flag",
      DidYouMean(absl::StripPrefix(name, kPrefix), candidates, kPrefix),
      "; unset it if it is not meant for Engram"));
}

}  // namespace

std::string EnvironmentVariable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::vector<std::string> CurrentEnvironment() {
  std::vector<std::string> entries;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    entries.emplace_back(*entry);
  }
  return entries;
}

absl::Status CheckEnvironment(absl::Span<const std::string> environment,
                              absl::Span<const std::string> flag_variables) {
  std::vector<std::string> known(flag_variables.begin(), flag_variables.end());
  for (absl::string_view name : kOtherVariables) known.emplace_back(name);
  for (absl::string_view entry : environment) {
    const size_t equals = entry.find('=');
    if (!absl::StartsWith(entry, kPrefix) || equals == entry.npos) continue;
    const absl::string_view name = entry.substr(0, equals);
    if (std::find(known.begin(), known.end(), name) != known.end() ||
        absl::StartsWith(name, kTestPrefix) ||
        absl::StartsWith(name, kEmulationPrefix) ||
        // ENGRAM_1, ENGRAM_2_GRPC: servers behind the proxy of deploy/haproxy.
        absl::ascii_isdigit(absl::StripPrefix(entry, kPrefix)[0]) ||
        IsServiceAddress(name, entry.substr(equals + 1))) {
      continue;
    }
    return Unknown(name, known);
  }
  return absl::OkStatus();
}

}  // namespace engram

#include "clients/cpp/tls_options.h"

#include "absl/strings/numbers.h"
#include "tools/shell/environment.h"

namespace engram::client {

TlsOptions DefaultTls() {
  TlsOptions tls;
  const std::string enabled = EnvironmentVariable(kTlsVariable);
  if (!enabled.empty()) {
    // What is neither true nor false is refused by programs, and must not make
    // others speak in plain.
    bool value = true;
    tls.enabled = !absl::SimpleAtob(enabled, &value) || value;
  }
  tls.ca = EnvironmentVariable(kCaVariable);
  tls.certificate = EnvironmentVariable(kCertificateVariable);
  tls.key = EnvironmentVariable(kKeyVariable);
  tls.server_name = EnvironmentVariable(kServerNameVariable);
  return tls;
}

bool UsesTls(const TlsOptions& tls) {
  TlsOptions others = tls;
  others.enabled.reset();
  return tls.enabled.value_or(others != TlsOptions());
}

}  // namespace engram::client

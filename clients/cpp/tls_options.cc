#include "clients/cpp/tls_options.h"

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "tools/shell/environment.h"

namespace engram::client {
namespace {

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

TlsOptions DefaultTls() {
  TlsOptions tls;
  const std::string enabled = Variable(kTlsVariable);
  if (!enabled.empty()) {
    // What is neither true nor false is refused by programs, and must not make
    // others speak in plain.
    bool value = true;
    tls.enabled = !absl::SimpleAtob(enabled, &value) || value;
  }
  tls.ca = Variable(kCaVariable);
  tls.certificate = Variable(kCertificateVariable);
  tls.key = Variable(kKeyVariable);
  tls.server_name = Variable(kServerNameVariable);
  return tls;
}

bool UsesTls(const TlsOptions& tls) {
  TlsOptions others = tls;
  others.enabled.reset();
  return tls.enabled.value_or(others != TlsOptions());
}

}  // namespace engram::client

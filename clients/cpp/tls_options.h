// Whether and how a client speaks TLS.
#pragma once

#include <optional>
#include <string>

namespace engram::client {

struct TlsOptions {
  // Nothing: if any of the others is given.
  std::optional<bool> enabled;
  // Files in PEM. Authorities that the server's certificate may come from;
  // empty: those that this machine knows.
  std::string ca;
  // What is shown to a server that asks for it: both, or neither.
  std::string certificate;
  std::string key;
  // The name that the server's certificate must have; empty: the host of its
  // address.
  std::string server_name;

  bool operator==(const TlsOptions&) const = default;
};

// What the environment variables ENGRAM_TLS (true or false), ENGRAM_CA,
// ENGRAM_CERTIFICATE, ENGRAM_KEY and ENGRAM_SERVER_NAME say.
TlsOptions DefaultTls();

// Whether TLS is spoken.
bool UsesTls(const TlsOptions& tls);

}  // namespace engram::client

// HttpCredentials: what the HTTP port shows its clients by TLS, and what it
// asks of them. libmicrohttpd speaks TLS by GnuTLS, hence not as gRPC does.
#pragma once

#include <gnutls/gnutls.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/tls/tls_files.h"

namespace engram {

// TLS 1.2 or newer, and of 1.2 only suites with forward secrecy and
// authenticated encryption.
inline constexpr char kHttpSuites[] =
    "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-RSA:-DHE-RSA:"
    "-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305:"
    "%SERVER_PRECEDENCE";

// Thread-safe: it never changes.
class HttpCredentials {
 public:
  // Of what the files hold; with authorities clients must have a certificate of
  // one of them. INVALID_ARGUMENT, in GnuTLS' words.
  static absl::StatusOr<std::shared_ptr<const HttpCredentials>> Make(
      const TlsFiles& texts);
  ~HttpCredentials();
  HttpCredentials(const HttpCredentials&) = delete;
  HttpCredentials& operator=(const HttpCredentials&) = delete;

  // Before the handshake of `session`, which this outlives.
  void GiveTo(gnutls_session_t session) const;

 private:
  HttpCredentials() = default;

  gnutls_certificate_credentials_t credentials_ = nullptr;
  bool asks_clients_ = false;
};

// The names (subjectAltName) in the certificate that the client of `session`
// showed, after its handshake: of hosts, of mail and URIs as they are, and
// addresses as people write them.
std::vector<std::string> NamesOfClient(gnutls_session_t session);

}  // namespace engram

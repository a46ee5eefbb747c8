#include "server/http_credentials.h"

#include <arpa/inet.h>
#include <gnutls/x509.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace engram {
namespace {

gnutls_datum_t View(const std::string& text) {
  return {reinterpret_cast<unsigned char*>(const_cast<char*>(text.data())),
          static_cast<unsigned>(text.size())};
}

// Of a client's certificate: it must come from one of the authorities, be valid
// and be made for clients. What is not ends the handshake.
int VerifyClient(gnutls_session_t session) {
  gnutls_typed_vdata_st purpose = {};
  purpose.type = GNUTLS_DT_KEY_PURPOSE_OID;
  purpose.data = reinterpret_cast<unsigned char*>(
      const_cast<char*>(GNUTLS_KP_TLS_WWW_CLIENT));
  unsigned problems = 0;
  const int done =
      gnutls_certificate_verify_peers(session, &purpose, 1, &problems);
  return done == GNUTLS_E_SUCCESS && problems == 0 ? 0
                                                   : GNUTLS_E_CERTIFICATE_ERROR;
}

using Certificate =
    std::unique_ptr<gnutls_x509_crt_int, decltype(&gnutls_x509_crt_deinit)>;

// The first certificate of a chain; null if it cannot be read.
Certificate Import(const gnutls_datum_t& bytes) {
  gnutls_x509_crt_t certificate = nullptr;
  gnutls_x509_crt_init(&certificate);
  Certificate owned(certificate, gnutls_x509_crt_deinit);
  const int done =
      gnutls_x509_crt_import(certificate, &bytes, GNUTLS_X509_FMT_DER);
  return done == GNUTLS_E_SUCCESS ? std::move(owned)
                                  : Certificate(nullptr, owned.get_deleter());
}

// Empty if it is of a kind that no key can be named by.
std::string NameText(int kind, const std::string& bytes) {
  if (kind == GNUTLS_SAN_DNSNAME || kind == GNUTLS_SAN_RFC822NAME ||
      kind == GNUTLS_SAN_URI) {
    return bytes;
  }
  if (kind != GNUTLS_SAN_IPADDRESS) return "";
  char text[INET6_ADDRSTRLEN] = "";
  const int family = bytes.size() == sizeof(in_addr) ? AF_INET : AF_INET6;
  if (family == AF_INET6 && bytes.size() != sizeof(in6_addr)) return "";
  inet_ntop(family, bytes.data(), text, sizeof(text));
  return text;
}

}  // namespace

std::vector<std::string> NamesOfClient(gnutls_session_t session) {
  unsigned count = 0;
  const gnutls_datum_t* const chain =
      gnutls_certificate_get_peers(session, &count);
  if (chain == nullptr || count == 0) return {};
  const Certificate certificate = Import(chain[0]);
  std::vector<std::string> names;
  for (unsigned i = 0; certificate != nullptr; ++i) {
    std::string bytes(4096, '\0');  // no name that is a key's is longer
    size_t size = bytes.size();
    const int kind = gnutls_x509_crt_get_subject_alt_name(
        certificate.get(), i, bytes.data(), &size, nullptr);
    // One that is no key's, of a length or of a kind.
    if (kind == GNUTLS_E_SHORT_MEMORY_BUFFER ||
        kind == GNUTLS_E_X509_UNKNOWN_SAN) {
      continue;
    }
    if (kind < 0) break;  // there are no more, or they cannot be read
    bytes.resize(size);
    std::string name = NameText(kind, bytes);
    if (!name.empty()) names.push_back(std::move(name));
  }
  return names;
}

absl::StatusOr<std::shared_ptr<const HttpCredentials>> HttpCredentials::Make(
    const TlsFiles& texts) {
  std::shared_ptr<HttpCredentials> made(new HttpCredentials);
  const auto failure = [](int code) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the HTTP port cannot use certificate, key or authorities: ",
        gnutls_strerror(code)));
  };
  int code = gnutls_certificate_allocate_credentials(&made->credentials_);
  if (code < 0) return failure(code);
  const gnutls_datum_t certificate = View(texts.certificate);
  const gnutls_datum_t key = View(texts.key);
  code = gnutls_certificate_set_x509_key_mem(made->credentials_, &certificate,
                                             &key, GNUTLS_X509_FMT_PEM);
  if (code < 0) return failure(code);
  if (texts.authorities.empty()) return made;
  made->asks_clients_ = true;
  const gnutls_datum_t authorities = View(texts.authorities);
  code = gnutls_certificate_set_x509_trust_mem(made->credentials_, &authorities,
                                               GNUTLS_X509_FMT_PEM);
  if (code < 0) return failure(code);
  gnutls_certificate_set_verify_function(made->credentials_, VerifyClient);
  return made;
}

HttpCredentials::~HttpCredentials() {
  if (credentials_ != nullptr) {
    gnutls_certificate_free_credentials(credentials_);
  }
}

void HttpCredentials::GiveTo(gnutls_session_t session) const {
  gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials_);
  gnutls_certificate_server_set_request(
      session, asks_clients_ ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_IGNORE);
}

}  // namespace engram

#include "clients/cpp/tls_mismatch.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cpp/client.h"
#include "clients/cpp/resumable_turn.h"
#include "clients/cpp/server_address.h"
#include "tools/tls/client_hello.h"

namespace engram::client {
namespace {

// For the connection, and for each answer.
constexpr int kLimitSeconds = 2;

using Connection = std::unique_ptr<BIO, decltype(&BIO_free_all)>;
using Settings = std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>;
using Session = std::unique_ptr<SSL, decltype(&SSL_free)>;

absl::Status Mismatch(const std::string& address, absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat("the server at ", address, " ", what));
}

// By TCP; null if there is none.
Connection Connect(const std::string& address) {
  Connection connection(BIO_new_connect(address.c_str()), BIO_free_all);
  constexpr int kNapMilliseconds = 10;
  if (connection == nullptr ||
      BIO_do_connect_retry(connection.get(), kLimitSeconds, kNapMilliseconds) !=
          1) {
    return Connection(nullptr, BIO_free_all);
  }
  int descriptor = -1;
  BIO_get_fd(connection.get(), &descriptor);
  // From here on it waits, but not for long.
  fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK);
  const timeval limit = {kLimitSeconds, 0};
  setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  return connection;
}

absl::Status FindTlsBehind(const std::string& address) {
  const Connection connection = Connect(address);
  if (connection == nullptr) return absl::OkStatus();
  const std::string hello = MakeClientHello();
  char answer = 0;
  if (BIO_write(connection.get(), hello.data(),
                static_cast<int>(hello.size())) <= 0 ||
      BIO_read(connection.get(), &answer, 1) != 1 || !BeginsTls(answer)) {
    return absl::OkStatus();
  }
  return Mismatch(address,
                  "speaks TLS, and this client does not: give --tls, or --ca "
                  "FILE with the certificate of its authority");
}

std::string ToText(const ASN1_STRING* text) {
  return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                     static_cast<size_t>(ASN1_STRING_length(text)));
}

// The names that a certificate is for.
std::string NamesOf(const X509* certificate) {
  std::vector<std::string> names;
  auto* all = static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(all); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(all, i);
    char address[INET6_ADDRSTRLEN] = "";
    if (name->type == GEN_DNS) {
      names.push_back(ToText(name->d.dNSName));
    } else if (name->type == GEN_IPADD) {
      const bool is_ipv4 = ASN1_STRING_length(name->d.iPAddress) == 4;
      inet_ntop(is_ipv4 ? AF_INET : AF_INET6,
                ASN1_STRING_get0_data(name->d.iPAddress), address,
                sizeof(address));
      names.push_back(address);
    }
  }
  GENERAL_NAMES_free(all);
  return names.empty() ? "nobody" : absl::StrJoin(names, ", ");
}

std::string TimeText(const ASN1_TIME* time) {
  const std::unique_ptr<BIO, decltype(&BIO_free)> text(BIO_new(BIO_s_mem()),
                                                       BIO_free);
  ASN1_TIME_print(text.get(), time);
  char* bytes = nullptr;
  const long count = BIO_get_mem_data(text.get(), &bytes);
  return std::string(bytes, static_cast<size_t>(count));
}

// One handshake as gRPC would do it.
class Handshake {
 public:
  Handshake(const std::string& address, const TlsOptions& tls)
      : address_(address),
        tls_(tls),
        name_(tls.server_name.empty() ? HostOf(address) : tls.server_name) {}

  absl::Status Run() {
    Connection connection = Connect(address_);
    if (connection == nullptr || !SetUp()) return absl::OkStatus();
    ERR_clear_error();
    BIO* const both = connection.release();
    SSL_set_bio(session_.get(), both, both);
    char greeting = 0;
    int result = SSL_connect(session_.get());
    // A certificate of ours is refused only after the handshake.
    if (result == 1) result = SSL_read(session_.get(), &greeting, 1);
    if (result == 1) return absl::OkStatus();
    return Explain(SSL_get_error(session_.get(), result));
  }

 private:
  bool SetUp() {
    settings_.reset(SSL_CTX_new(TLS_client_method()));
    if (settings_ == nullptr) return false;
    SSL_CTX* const settings = settings_.get();
    SSL_CTX_set_min_proto_version(settings, TLS1_2_VERSION);
    SSL_CTX_set_verify(settings, SSL_VERIFY_PEER, &Handshake::OnVerified);
    if ((tls_.ca.empty()
             ? SSL_CTX_set_default_verify_paths(settings)
             : SSL_CTX_load_verify_file(settings, tls_.ca.c_str())) != 1) {
      return false;
    }
    if (!tls_.certificate.empty() &&
        (SSL_CTX_use_certificate_chain_file(settings,
                                            tls_.certificate.c_str()) != 1 ||
         SSL_CTX_use_PrivateKey_file(settings, tls_.key.c_str(),
                                     SSL_FILETYPE_PEM) != 1)) {
      return false;
    }
    session_.reset(SSL_new(settings));
    if (session_ == nullptr) return false;
    SSL_set_app_data(session_.get(), this);
    constexpr unsigned char kHttp2[] = {2, 'h', '2'};
    SSL_set_alpn_protos(session_.get(), kHttp2, sizeof(kHttp2));
    X509_VERIFY_PARAM* const verify = SSL_get0_param(session_.get());
    if (X509_VERIFY_PARAM_set1_ip_asc(verify, name_.c_str()) == 1) return true;
    SSL_set_tlsext_host_name(session_.get(), name_.c_str());
    return SSL_set1_host(session_.get(), name_.c_str()) == 1;
  }

  // Called for each certificate of the server; keeps what is wrong with the
  // first that is, since OpenSSL drops it with the connection.
  static int OnVerified(int good, X509_STORE_CTX* verified) {
    if (good == 1) return 1;
    const auto* session = static_cast<const SSL*>(X509_STORE_CTX_get_ex_data(
        verified, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto* self = static_cast<Handshake*>(SSL_get_app_data(session));
    self->refused_ =
        self->RefusedByUs(X509_STORE_CTX_get_error(verified),
                          X509_STORE_CTX_get_current_cert(verified));
    return 0;
  }

  // `error`: how the handshake or the wait for a greeting ended.
  absl::Status Explain(int error) const {
    const int reason = ERR_GET_REASON(ERR_peek_error());
    if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST) {
      return Mismatch(address_,
                      "does not speak TLS, and this client does: leave out "
                      "--tls, --ca, --certificate, --key and --server-name, "
                      "and unset the variables of these names");
    }
    if (!refused_.ok()) return refused_;
    // Who was asked for a certificate and is then left was not believed. A
    // server that only says nothing waits for us to speak.
    const bool is_left = error != SSL_ERROR_WANT_READ;
    if (is_left && SSL_get0_peer_CA_list(session_.get()) != nullptr) {
      return RefusedByServer();
    }
    return absl::OkStatus();
  }

  absl::Status RefusedByUs(int result, const X509* certificate) const {
    switch (result) {
      case X509_V_ERR_CERT_HAS_EXPIRED:
        return Mismatch(
            address_, absl::StrCat("has a certificate that expired on ",
                                   TimeText(X509_get0_notAfter(certificate))));
      case X509_V_ERR_HOSTNAME_MISMATCH:
      case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return Mismatch(
            address_, absl::StrCat("has a certificate for ",
                                   NamesOf(certificate), " and not for ", name_,
                                   ": --server-name NAME says which is meant"));
      case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
      case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
      case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
      case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
      case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        return Mismatch(
            address_, absl::StrCat("has a certificate of no authority that is ",
                                   tls_.ca.empty()
                                       ? "known here: give --ca FILE with its "
                                         "certificate"
                                       : absl::StrCat("in ", tls_.ca)));
      default:
        return Mismatch(address_,
                        absl::StrCat("has a certificate that is not believed: ",
                                     X509_verify_cert_error_string(result)));
    }
  }

  absl::Status RefusedByServer() const {
    if (tls_.certificate.empty()) {
      return Mismatch(address_,
                      "serves only clients that have a certificate: give "
                      "--certificate FILE and --key FILE");
    }
    return Mismatch(address_, absl::StrCat("does not take the certificate ",
                                           tls_.certificate,
                                           " of this client: it has expired or "
                                           "is of another authority"));
  }

  const std::string& address_;
  const TlsOptions& tls_;
  const std::string name_;
  Settings settings_{nullptr, SSL_CTX_free};
  Session session_{nullptr, SSL_free};
  absl::Status refused_;  // OK: nothing is wrong with what the server showed
};

}  // namespace

absl::Status ExplainByTls(const absl::Status& status,
                          const std::string& address, const TlsOptions& tls) {
  // Sockets of the machine, and what only gRPC resolves, are not looked at.
  if (!IsTransportFailure(status) || EndOf(status) == CallEnd::kAnswered ||
      HasSchemeOfGrpc(address)) {
    return status;
  }
  const absl::Status mismatch =
      UsesTls(tls) ? Handshake(address, tls).Run() : FindTlsBehind(address);
  ERR_clear_error();
  return mismatch.ok() ? status : mismatch;
}

}  // namespace engram::client

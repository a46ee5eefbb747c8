#include "server/grpc_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpcpp/security/server_credentials.h>

#include <string>

#include "kernels/status.h"
#include "server/tls_identity.h"

namespace engram {
namespace {

// Of gRPC's ways to renew certificates this is the one that asks before each
// handshake and keeps what it has if it cannot use what it gets. The other, by
// files (experimental::FileWatcherCertificateProvider), looks at them only
// every some seconds, and has nothing left to serve if they are damaged.
class RenewedCredentials final : public grpc::ServerCredentials {
 public:
  explicit RenewedCredentials(const TlsIdentity* identity)
      : identity_(identity),
        credentials_(grpc_ssl_server_credentials_create_with_options(
            grpc_ssl_server_credentials_create_options_using_config_fetcher(
                identity->asks_clients()
                    ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                    : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
                &RenewedCredentials::Fetch, this))) {}
  ~RenewedCredentials() override {
    grpc_server_credentials_release(credentials_);
  }

  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {
    ENGRAM_CHECK(false);  // Nobody asks for one.
  }

 private:
  int AddPortToServer(const std::string& address,
                      grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  // By one connection at a time.
  static grpc_ssl_certificate_config_reload_status Fetch(
      void* self, grpc_ssl_server_certificate_config** config) {
    auto* credentials = static_cast<RenewedCredentials*>(self);
    const auto version = credentials->identity_->current();
    if (version->number == credentials->fetched_) {
      return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    }
    const TlsFiles& texts = version->texts;
    const grpc_ssl_pem_key_cert_pair pair = {texts.key.c_str(),
                                             texts.certificate.c_str()};
    // It insists on authorities even where no client is asked.
    const std::string& authorities = credentials->identity_->asks_clients()
                                         ? texts.authorities
                                         : texts.certificate;
    *config = grpc_ssl_server_certificate_config_create(authorities.c_str(),
                                                        &pair, 1);
    credentials->fetched_ = version->number;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const TlsIdentity* const identity_;
  int64_t fetched_ = 0;
  grpc_server_credentials* const credentials_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(
    const TlsIdentity* identity) {
  if (identity == nullptr) return grpc::InsecureServerCredentials();
  return std::make_shared<RenewedCredentials>(identity);
}

}  // namespace engram

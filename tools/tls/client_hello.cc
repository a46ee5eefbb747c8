#include "tools/tls/client_hello.h"

#include <openssl/bio.h>
#include <openssl/ssl.h>

#include <memory>

namespace engram {
namespace {

constexpr unsigned char kHttp2[] = {2, 'h', '2'};

// Types of records: RFC 8446, section 5.1.
constexpr char kAlert = 21;
constexpr char kHandshake = 22;

}  // namespace

std::string MakeClientHello() {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> settings(
      SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  if (settings == nullptr) return "";
  SSL_CTX_set_min_proto_version(settings.get(), TLS1_2_VERSION);
  SSL_CTX_set_alpn_protos(settings.get(), kHttp2, sizeof(kHttp2));
  const std::unique_ptr<SSL, decltype(&SSL_free)> connection(
      SSL_new(settings.get()), SSL_free);
  BIO* const input = BIO_new(BIO_s_mem());
  BIO* const output = BIO_new(BIO_s_mem());
  if (connection == nullptr || input == nullptr || output == nullptr) {
    BIO_free(input);
    BIO_free(output);
    return "";
  }
  SSL_set_bio(connection.get(), input, output);
  SSL_connect(connection.get());  // Says hello, and finds no answer.
  char* bytes = nullptr;
  const long count = BIO_get_mem_data(output, &bytes);
  return count > 0 ? std::string(bytes, static_cast<size_t>(count)) : "";
}

bool BeginsTls(char first_byte) {
  return first_byte == kHandshake || first_byte == kAlert;
}

}  // namespace engram

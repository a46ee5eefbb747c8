#include "tools/tls/tls_files.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "tools/status/early_return.h"

namespace engram {
namespace {

using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using Text = std::unique_ptr<BIO, decltype(&BIO_free)>;

// Far more than any bundle of authorities, and a bound on what /dev/zero takes.
constexpr size_t kMostBytes = 4 << 20;

absl::Status Wrong(absl::string_view what, const std::string& name,
                   absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("the ", what, " ", name, " ", why));
}

absl::StatusOr<std::string> ReadOne(absl::string_view what,
                                    const std::string& name) {
  if (name.empty()) return "";
  const int descriptor = open(name.c_str(), O_RDONLY | O_CLOEXEC);
  std::string text;
  ssize_t count = descriptor < 0 ? -1 : 1;
  while (count > 0 && text.size() <= kMostBytes) {
    char bytes[16 << 10];
    count = read(descriptor, bytes, sizeof(bytes));
    if (count > 0) text.append(bytes, static_cast<size_t>(count));
  }
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  if (count < 0) {
    return Wrong(what, name, absl::StrCat("cannot be read: ", strerror(error)));
  }
  if (text.size() > kMostBytes) {
    return Wrong(what, name,
                 absl::StrCat("has more than ", kMostBytes, " bytes"));
  }
  return text;
}

Text Open(const std::string& text) {
  return Text(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())),
              BIO_free);
}

// OpenSSL's own words for what failed last.
std::string LastError() {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  return reason == nullptr ? "OpenSSL does not say why" : reason;
}

// OpenSSL asks for a passphrase: there is none. `asked` is a bool.
int NoPassphrase(char*, int, int, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

absl::StatusOr<std::vector<Certificate>> ReadCertificates(
    absl::string_view what, const std::string& name, const std::string& text) {
  std::vector<Certificate> certificates;
  const Text file = Open(text);
  while (X509* one = PEM_read_bio_X509(file.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(one, X509_free);
  }
  const bool at_end =
      ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (certificates.empty() && at_end) {
    return Wrong(what, name, "has no certificate in PEM");
  }
  if (!at_end) {
    return Wrong(what, name,
                 absl::StrCat("is damaged: certificate ",
                              certificates.size() + 1, ": ", LastError()));
  }
  return certificates;
}

absl::StatusOr<Key> ReadKey(const std::string& name, const std::string& text) {
  const Text file = Open(text);
  bool asked = false;
  Key key(PEM_read_bio_PrivateKey(file.get(), nullptr, NoPassphrase, &asked),
          EVP_PKEY_free);
  if (key != nullptr) return key;
  if (asked) {
    return Wrong("key", name, "has a passphrase: give one without");
  }
  return Wrong("key", name, "has no private key in PEM");
}

absl::Time ToTime(const ASN1_TIME* time) {
  tm parts = {};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfiniteFuture();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

std::string TimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

// "" if it is valid.
std::string WhyInvalid(const Certificate& certificate, absl::Time now) {
  const absl::Time begin = ToTime(X509_get0_notBefore(certificate.get()));
  const absl::Time end = ToTime(X509_get0_notAfter(certificate.get()));
  if (now >= end) return absl::StrCat("expired on ", TimeText(end));
  if (now < begin) return absl::StrCat("is not valid until ", TimeText(begin));
  return "";
}

// Whether TLS takes them at all: the library refuses short keys and old
// signatures.
absl::Status CheckStrength(const TlsFiles& names,
                           const std::vector<Certificate>& chain,
                           const Key& key) {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> settings(
      SSL_CTX_new(TLS_method()), SSL_CTX_free);
  if (settings == nullptr) return absl::InternalError(LastError());
  bool taken =
      SSL_CTX_use_certificate(settings.get(), chain.front().get()) == 1;
  for (size_t i = 1; taken && i < chain.size(); ++i) {
    taken = SSL_CTX_add1_chain_cert(settings.get(), chain[i].get()) == 1;
  }
  if (!taken) {
    return Wrong("certificate", names.certificate,
                 absl::StrCat("is of no use for TLS: ", LastError()));
  }
  if (SSL_CTX_use_PrivateKey(settings.get(), key.get()) != 1) {
    return Wrong("key", names.key,
                 absl::StrCat("is of no use for TLS: ", LastError()));
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::Time> CheckIdentity(const TlsFiles& names,
                                         const TlsFiles& texts,
                                         absl::Time now) {
  ENGRAM_ASSIGN_OR_RETURN(
      const std::vector<Certificate> chain,
      ReadCertificates("certificate", names.certificate, texts.certificate));
  ENGRAM_ASSIGN_OR_RETURN(const Key key, ReadKey(names.key, texts.key));
  if (X509_check_private_key(chain.front().get(), key.get()) != 1) {
    return Wrong(
        "key", names.key,
        absl::StrCat("does not belong to the certificate ", names.certificate));
  }
  absl::Time expiry = absl::InfiniteFuture();
  for (const Certificate& certificate : chain) {
    const std::string why = WhyInvalid(certificate, now);
    if (!why.empty()) return Wrong("certificate", names.certificate, why);
    expiry = std::min(expiry, ToTime(X509_get0_notAfter(certificate.get())));
  }
  ENGRAM_RETURN_IF_ERROR(CheckStrength(names, chain, key));
  return expiry;
}

absl::Status CheckAuthorities(const std::string& name, const std::string& text,
                              absl::Time now) {
  constexpr char kWhat[] = "certificate authority";
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<Certificate> authorities,
                          ReadCertificates(kWhat, name, text));
  std::string why;
  for (const Certificate& authority : authorities) {
    why = WhyInvalid(authority, now);
    if (why.empty()) return absl::OkStatus();
  }
  return Wrong(kWhat, name, why);
}

}  // namespace

absl::StatusOr<TlsFiles> ReadTlsFiles(const TlsFiles& names) {
  TlsFiles texts;
  ENGRAM_ASSIGN_OR_RETURN(texts.certificate,
                          ReadOne("certificate", names.certificate));
  ENGRAM_ASSIGN_OR_RETURN(texts.key, ReadOne("key", names.key));
  ENGRAM_ASSIGN_OR_RETURN(texts.authorities,
                          ReadOne("certificate authority", names.authorities));
  return texts;
}

absl::StatusOr<absl::Time> CheckTlsFiles(const TlsFiles& names,
                                         const TlsFiles& texts,
                                         absl::Time now) {
  // What is left of another call would be taken for a word on these.
  ERR_clear_error();
  absl::Time expiry = absl::InfiniteFuture();
  if (!names.certificate.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(expiry, CheckIdentity(names, texts, now));
  }
  if (!names.authorities.empty()) {
    ENGRAM_RETURN_IF_ERROR(
        CheckAuthorities(names.authorities, texts.authorities, now));
  }
  ERR_clear_error();
  return expiry;
}

}  // namespace engram

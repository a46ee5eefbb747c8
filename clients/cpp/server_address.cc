#include "clients/cpp/server_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

absl::Status Wrong(absl::string_view text, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", absl::CHexEscape(text.substr(0, 128)), "' ", what));
}

bool IsIpv6(const std::string& host) {
  // A zone, as in fe80::1%eth0, is the resolver's business.
  in6_addr address;
  return inet_pton(AF_INET6, host.substr(0, host.find('%')).c_str(),
                   &address) == 1;
}

bool IsHostName(absl::string_view host) {
  return !host.empty() && std::all_of(host.begin(), host.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_';
  });
}

bool IsNumber(absl::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

bool IsLoopbackHost(const std::string& host) {
  in_addr ipv4;
  if (inet_pton(AF_INET, host.c_str(), &ipv4) == 1) {
    return ntohl(ipv4.s_addr) >> 24 == IN_LOOPBACKNET;
  }
  in6_addr ipv6;
  if (inet_pton(AF_INET6, host.c_str(), &ipv6) == 1) {
    return IN6_IS_ADDR_LOOPBACK(&ipv6);
  }
  return absl::EqualsIgnoreCase(host, "localhost");
}

// Takes a scheme of URLs away; errors name those that cannot be served.
absl::Status StripScheme(absl::string_view whole, absl::string_view* text) {
  const size_t end = text->find("://");
  if (end == text->npos) return absl::OkStatus();
  const std::string scheme = absl::AsciiStrToLower(text->substr(0, end));
  if (scheme == "https" || scheme == "grpcs") {
    return Wrong(whole, absl::StrCat("asks for TLS: give HOST:PORT without "
                                     "scheme, and --tls"));
  }
  if (scheme != "http" && scheme != "grpc") {
    return Wrong(whole, absl::StrCat("begins with ", scheme,
                                     "://, which is none of http:// and "
                                     "grpc://"));
  }
  text->remove_prefix(end + 3);
  absl::ConsumeSuffix(text, "/");
  if (text->find('/') != text->npos) {
    return Wrong(whole, "has a path, and gRPC has none: give HOST:PORT");
  }
  return absl::OkStatus();
}

struct HostAndPort {
  std::string host;                       // Without brackets.
  std::optional<absl::string_view> port;  // As typed.
};

absl::StatusOr<HostAndPort> Split(absl::string_view whole,
                                  absl::string_view text) {
  HostAndPort parts;
  if (absl::ConsumePrefix(&text, "[")) {
    const size_t end = text.find(']');
    if (end == text.npos) return Wrong(whole, "has a [ without a ]");
    parts.host = std::string(text.substr(0, end));
    text.remove_prefix(end + 1);
    if (!IsIpv6(parts.host)) {
      return Wrong(whole, "has no IPv6 address between [ and ]");
    }
    if (absl::ConsumePrefix(&text, ":")) {
      parts.port = text;
    } else if (!text.empty()) {
      return Wrong(whole, "has something other than :PORT after the ]");
    }
    return parts;
  }
  const size_t colon = text.find(':');
  if (colon != text.rfind(':')) {
    parts.host = std::string(text);
    if (IsIpv6(parts.host)) return parts;
    return Wrong(whole,
                 "has several colons and is no IPv6 address; with a port one "
                 "is written [ADDRESS]:PORT");
  }
  parts.host = std::string(text.substr(0, colon));
  if (colon != text.npos) parts.port = text.substr(colon + 1);
  return parts;
}

}  // namespace

std::string HostOf(absl::string_view address) {
  if (absl::ConsumePrefix(&address, "[")) {
    return std::string(address.substr(0, address.find(']')));
  }
  return std::string(address.substr(0, address.rfind(':')));
}

bool IsLoopback(absl::string_view address) {
  if (absl::StartsWith(address, "unix:") ||
      absl::StartsWith(address, "unix-abstract:")) {
    return true;
  }
  if (absl::ConsumePrefix(&address, "dns:")) {
    // What stands between the slashes is a name server of the caller's choice.
    absl::ConsumePrefix(&address, "///");
  } else if (!absl::ConsumePrefix(&address, "ipv4:")) {
    absl::ConsumePrefix(&address, "ipv6:");
  }
  // gRPC takes several, any of which it may call.
  const std::vector<absl::string_view> all = absl::StrSplit(address, ',');
  return std::all_of(all.begin(), all.end(), [](absl::string_view one) {
    return IsLoopbackHost(HostOf(one));
  });
}

bool HasSchemeOfGrpc(absl::string_view text) {
  for (absl::string_view scheme :
       {"unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:"}) {
    if (absl::StartsWith(text, scheme) && text.size() > scheme.size()) {
      return true;
    }
  }
  return false;
}

absl::StatusOr<std::string> ParseServerAddress(absl::string_view text) {
  const absl::string_view whole = text;
  if (text.empty()) return Wrong(whole, "is no address: give HOST:PORT");
  for (char c : text) {
    if (absl::ascii_isspace(c) || absl::ascii_iscntrl(c) ||
        !absl::ascii_isascii(c)) {
      return Wrong(whole, "has a character that no address has");
    }
  }
  if (HasSchemeOfGrpc(text)) return std::string(text);
  ENGRAM_RETURN_IF_ERROR(StripScheme(whole, &text));
  if (IsNumber(text)) {
    return Wrong(
        whole, absl::StrCat("is a port without a host: give localhost:", text));
  }
  ENGRAM_ASSIGN_OR_RETURN(const HostAndPort parts, Split(whole, text));
  const bool is_ipv6 = IsIpv6(parts.host);
  if (parts.host.empty()) return Wrong(whole, "has no host: give HOST:PORT");
  if (!is_ipv6 && !IsHostName(parts.host)) {
    return Wrong(whole, "has no host name before the port");
  }
  int port = kDefaultPort;
  if (parts.port.has_value() &&
      (!IsNumber(*parts.port) || !absl::SimpleAtoi(*parts.port, &port) ||
       port < 1 || port > 65535)) {
    return Wrong(whole, absl::StrCat("has the port '", *parts.port,
                                     "', which is not a number from 1 to "
                                     "65535"));
  }
  return is_ipv6 ? absl::StrCat("[", parts.host, "]:", port)
                 : absl::StrCat(parts.host, ":", port);
}

}  // namespace engram::client

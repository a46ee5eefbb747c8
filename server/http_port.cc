#include "server/http_port.h"

#include <errno.h>
#include <microhttpd.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "server/http_credentials.h"
#include "server/tcp_address.h"
#include "server/tls_identity.h"

namespace engram {
namespace {

absl::Status Unavailable(const std::string& address, absl::string_view why) {
  return absl::UnavailableError(
      absl::StrCat("cannot serve HTTP on ", address, ": ", why));
}

// A descriptor that listens on one of the addresses of the host.
absl::StatusOr<int> Listen(const std::string& address) {
  const auto found = Resolve(SplitAddress(address), AI_PASSIVE);
  if (!found.ok()) return Unavailable(address, found.status().message());
  for (const addrinfo* one = found->get(); one != nullptr; one = one->ai_next) {
    const int descriptor = ListenOn(*one);
    if (descriptor >= 0) return descriptor;
  }
  return Unavailable(address, strerror(errno));
}

class MicroHttpPort final : public HttpPort {
 public:
  MicroHttpPort(std::string address, const Options& options, Pages pages)
      : options_(options),
        pages_(std::move(pages)),
        address_(std::move(address)) {}

  ~MicroHttpPort() override {
    if (daemon_ != nullptr) MHD_stop_daemon(daemon_);
  }

  // Takes the descriptor.
  absl::Status Start(int descriptor) {
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD;
    std::shared_ptr<const TlsVersion> first;  // until it is copied
    std::vector<MHD_OptionItem> tls;
    if (options_.identity != nullptr) {
      first = options_.identity->current();
      flags |= MHD_USE_TLS;
      tls = TlsOptions(first->texts);
    }
    tls.push_back({MHD_OPTION_END, 0, nullptr});
    const auto connections = static_cast<unsigned>(options_.connections);
    daemon_ = MHD_start_daemon(
        flags, /*port=*/0, nullptr, nullptr, &MicroHttpPort::OnRequest,
        this,  //
        MHD_OPTION_LISTEN_SOCKET, descriptor,
        // Beyond our own limit the oldest is being closed.
        MHD_OPTION_CONNECTION_LIMIT, 2 * connections,  //
        MHD_OPTION_CONNECTION_TIMEOUT,
        static_cast<unsigned>(absl::ToInt64Seconds(options_.idle_timeout)),
        MHD_OPTION_NOTIFY_CONNECTION, &MicroHttpPort::OnConnection, this,
        MHD_OPTION_ARRAY, tls.data(),  //
        MHD_OPTION_END);
    if (daemon_ != nullptr) return absl::OkStatus();
    return Unavailable(address_, "its thread cannot be started");
  }

  const std::string& address() const override { return address_; }

 private:
  using Credentials = std::shared_ptr<const HttpCredentials>;

  // libmicrohttpd starts only with a pair of its own, which it copies; each
  // connection is then given the one of its time.
  static std::vector<MHD_OptionItem> TlsOptions(const TlsFiles& texts) {
    const auto option = [](MHD_OPTION name, const char* value) {
      return MHD_OptionItem{name, 0, const_cast<char*>(value)};
    };
    return {option(MHD_OPTION_HTTPS_MEM_CERT, texts.certificate.c_str()),
            option(MHD_OPTION_HTTPS_MEM_KEY, texts.key.c_str()),
            option(MHD_OPTION_HTTPS_PRIORITIES, kHttpSuites)};
  }

  static void OnConnection(void* self, MHD_Connection* connection, void** own,
                           MHD_ConnectionNotificationCode what) {
    auto* port = static_cast<MicroHttpPort*>(self);
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
      *own = port->Secure(connection);
      port->Add(connection);
    } else {
      port->Remove(connection);
      delete static_cast<Credentials*>(*own);
    }
  }

  // Returns what the connection must keep until its end; null without TLS.
  Credentials* Secure(MHD_Connection* connection) const {
    if (options_.identity == nullptr) return nullptr;
    auto* credentials = new Credentials(options_.identity->current()->http);
    const auto* session =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    ENGRAM_CHECK(session != nullptr);
    (*credentials)->GiveTo(static_cast<gnutls_session_t>(session->tls_session));
    return credentials;
  }

  static MHD_Result OnRequest(void* self, MHD_Connection* connection,
                              const char* path, const char* method, const char*,
                              const char*, size_t*, void**) {
    // Answered as soon as the head is there; a body is never read.
    return Send(connection, static_cast<MicroHttpPort*>(self)->Answer(
                                method, path, RequestOf(connection)));
  }

  static HttpRequest RequestOf(MHD_Connection* connection) {
    HttpRequest request;
    const char* const authorization = MHD_lookup_connection_value(
        connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    if (authorization != nullptr) request.authorization = authorization;
    request.certificate_names = [connection] {
      const auto* session = MHD_get_connection_info(
          connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
      if (session == nullptr) return std::vector<std::string>();
      return NamesOfClient(static_cast<gnutls_session_t>(session->tls_session));
    };
    return request;
  }

  static MHD_Result Send(MHD_Connection* connection, const HttpPage& page) {
    MHD_Response* response = MHD_create_response_from_buffer(
        page.body.size(), const_cast<char*>(page.body.data()),
        MHD_RESPMEM_MUST_COPY);
    if (response == nullptr) return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                            page.content_type.c_str());
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    if (page.status == MHD_HTTP_METHOD_NOT_ALLOWED) {
      MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    }
    if (page.status == MHD_HTTP_UNAUTHORIZED) {
      MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE,
                              "Bearer");
    }
    const MHD_Result sent = MHD_queue_response(
        connection, static_cast<unsigned>(page.status), response);
    MHD_destroy_response(response);
    return sent;
  }

  HttpPage Answer(absl::string_view method, const char* path,
                  const HttpRequest& request) const {
    const auto page = pages_.find(path);
    if (page == pages_.end()) {
      std::string paths;
      for (const auto& [known, _] : pages_) absl::StrAppend(&paths, " ", known);
      return {.status = MHD_HTTP_NOT_FOUND,
              .body = absl::StrCat("here are only", paths, "\n")};
    }
    if (method != MHD_HTTP_METHOD_GET && method != MHD_HTTP_METHOD_HEAD) {
      return {.status = MHD_HTTP_METHOD_NOT_ALLOWED,
              .body = "only GET and HEAD\n"};
    }
    return page->second(request);
  }

  void Add(MHD_Connection* connection) {
    open_.push_back(connection);
    if (open_.size() <= static_cast<size_t>(options_.connections)) return;
    // Its thread then sees that it has ended.
    const auto* oldest = MHD_get_connection_info(
        open_.front(), MHD_CONNECTION_INFO_CONNECTION_FD);
    if (oldest != nullptr) shutdown(oldest->connect_fd, SHUT_RDWR);
    open_.erase(open_.begin());
  }

  void Remove(MHD_Connection* connection) {
    const auto found = std::find(open_.begin(), open_.end(), connection);
    if (found != open_.end()) open_.erase(found);
  }

  const Options options_;
  const Pages pages_;
  const std::string address_;
  MHD_Daemon* daemon_ = nullptr;

  // The port's thread only. By age, without those that are being closed.
  std::vector<MHD_Connection*> open_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpPort>> HttpPort::Open(
    const std::string& address, const Options& options, Pages pages) {
  ENGRAM_ASSIGN_OR_RETURN(const int descriptor, Listen(address));
  auto port = std::make_unique<MicroHttpPort>(
      WithPort(address, PortOf(descriptor)), options, std::move(pages));
  ENGRAM_RETURN_IF_ERROR(port->Start(descriptor));
  return port;
}

}  // namespace engram

#include "clients/cpp/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "clients/cpp/api_key.h"
#include "clients/cpp/server_address.h"
#include "tools/status/early_return.h"
#include "tools/tls/tls_files.h"

namespace engram::client {
namespace {

// Of one call: some thousand tokens, and no limit to the speed of large answers
// on any network but the slowest.
constexpr int kUnreadBytes = 256 << 10;
constexpr size_t kMostTenantBytes = 128;

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const TlsOptions& tls) {
  if (!UsesTls(tls)) return grpc::InsecureChannelCredentials();
  if (tls.certificate.empty() != tls.key.empty()) {
    return absl::InvalidArgumentError(
        "--certificate and --key belong together: one of them is missing");
  }
  const TlsFiles names = {tls.certificate, tls.key, tls.ca};
  ENGRAM_ASSIGN_OR_RETURN(const TlsFiles texts, ReadTlsFiles(names));
  ENGRAM_RETURN_IF_ERROR(CheckTlsFiles(names, texts, absl::Now()).status());
  return grpc::SslCredentials(
      {texts.authorities, texts.key, texts.certificate});
}

// Whether gRPC can send it as metadata, and over one line.
bool IsVisible(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), absl::ascii_isgraph);
}

// What every call says of who makes it.
class CallerMetadata final : public grpc::MetadataCredentialsPlugin {
 public:
  CallerMetadata(const std::string& key, const std::string& tenant) {
    if (!key.empty()) {
      metadata_.emplace("authorization", absl::StrCat("Bearer ", key));
    }
    if (!tenant.empty()) metadata_.emplace("engram-tenant", tenant);
  }

  // It is all there: no thread of its own.
  bool IsBlocking() const override { return false; }
  const char* GetType() const override { return "engram"; }
  grpc::Status GetMetadata(
      grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
      std::multimap<grpc::string, grpc::string>* metadata) override {
    metadata->insert(metadata_.begin(), metadata_.end());
    return grpc::Status::OK;
  }
  // gRPC writes it to its traces: without the key.
  grpc::string DebugString() override { return GetType(); }

 private:
  std::multimap<grpc::string, grpc::string> metadata_;
};

absl::Status CheckCaller(const std::string& server, const TlsOptions& tls,
                         const CallerOptions& caller) {
  if (!IsVisible(caller.tenant) || caller.tenant.size() > kMostTenantBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tenant takes a name of up to ", kMostTenantBytes,
                     " visible characters of ASCII"));
  }
  if (!caller.tenant.empty() && caller.api_key_file.empty() &&
      tls.certificate.empty()) {
    return absl::InvalidArgumentError(
        "--tenant is for operators, who show a key: give --api-key-file FILE, "
        "or leave it out");
  }
  if (UsesTls(tls) || IsLoopback(server)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "a key is not sent in plain to ", server,
      ", which is not this machine's own loopback: speak TLS (--tls, or --ca "
      "FILE with the authority of the server's certificate)"));
}

// `transport` with what is said of the caller.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> AddCaller(
    std::shared_ptr<grpc::ChannelCredentials> transport,
    const std::string& server, const TlsOptions& tls,
    const CallerOptions& caller) {
  ENGRAM_RETURN_IF_ERROR(CheckCaller(server, tls, caller));
  std::string key;
  if (!caller.api_key_file.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(key, ReadApiKey(caller.api_key_file));
  }
  grpc_security_level least = GRPC_PRIVACY_AND_INTEGRITY;
  if (!UsesTls(tls)) {
    // These look at the connection itself, wherever its name may have led.
    transport = grpc::experimental::LocalCredentials(
        absl::StartsWith(server, "unix") ? UDS : LOCAL_TCP);
    least = GRPC_SECURITY_NONE;
  }
  return grpc::CompositeChannelCredentials(
      transport,
      grpc::experimental::MetadataCredentialsFromPlugin(
          std::make_unique<CallerMetadata>(key, caller.tenant), least));
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(
    const std::string& server, const TlsOptions& tls,
    const CallerOptions& caller, bool own_connection) {
  ENGRAM_ASSIGN_OR_RETURN(auto credentials, MakeCredentials(tls));
  grpc::ChannelArguments arguments;
  if (caller != CallerOptions()) {
    ENGRAM_ASSIGN_OR_RETURN(
        credentials, AddCaller(std::move(credentials), server, tls, caller));
    // A proxy is not this machine, even if it is asked for what is.
    if (!UsesTls(tls)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  }
  if (!tls.server_name.empty()) {
    arguments.SetSslTargetNameOverride(tls.server_name);
  }
  // A score of a long text is larger than gRPC's default of 4 MiB.
  arguments.SetMaxReceiveMessageSize(-1);
  // A server that vanished without closing the connection is noticed although
  // nothing is being sent, as during a long prompt.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  // gRPC's own waits between connection attempts grow up to two minutes, and
  // calls fail at once in between. Ours are the ones that count.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 10'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, own_connection ? 1 : 0);
  // What is not read yet is to wait at the server, which paces itself by it and
  // can tell how a stream ended; gRPC's own windows are 4 MiB and more for
  // each.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kUnreadBytes);
  arguments.SetUserAgentPrefix("engram");
  return grpc::CreateCustomChannel(server, credentials, arguments);
}

void TellSession(const std::string& session_id, grpc::ClientContext* context) {
  // gRPC ends the process over metadata that HTTP/2 cannot carry.
  const bool is_id =
      !session_id.empty() && session_id.size() <= 128 && IsVisible(session_id);
  if (is_id) context->AddMetadata("x-session-id", session_id);
}

}  // namespace engram::client

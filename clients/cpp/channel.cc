#include "clients/cpp/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/time/clock.h"
#include "tools/status/early_return.h"
#include "tools/tls/tls_files.h"

namespace engram::client {
namespace {

// Of one call: some thousand tokens, and no limit to the speed of large answers
// on any network but the slowest.
constexpr int kUnreadBytes = 256 << 10;

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

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(
    const std::string& server, const TlsOptions& tls, bool own_connection) {
  ENGRAM_ASSIGN_OR_RETURN(const auto credentials, MakeCredentials(tls));
  grpc::ChannelArguments arguments;
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
      !session_id.empty() && session_id.size() <= 128 &&
      std::all_of(session_id.begin(), session_id.end(), absl::ascii_isgraph);
  if (is_id) context->AddMetadata("x-session-id", session_id);
}

}  // namespace engram::client

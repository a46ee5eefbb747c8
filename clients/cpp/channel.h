// Connections to a server, with the settings that all our clients share.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "clients/cpp/tls_options.h"

namespace engram::client {

// `server` as ParseServerAddress() gives it. `own_connection`: not shared with
// other channels of this process. INVALID_ARGUMENT names a file of `tls` and
// what is wrong with it.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(
    const std::string& server, const TlsOptions& tls,
    bool own_connection = false);

// Tells the session that a call is about as the metadata "x-session-id", by
// which a proxy can choose the server. "" and what is no id, which the server
// will refuse, are left out.
void TellSession(const std::string& session_id, grpc::ClientContext* context);

}  // namespace engram::client

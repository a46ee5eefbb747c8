// Connections to a server, with the settings that all our clients share.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "clients/cpp/caller_options.h"
#include "clients/cpp/tls_options.h"

namespace engram::client {

// `server` as ParseServerAddress() gives it. `own_connection`: not shared with
// other channels of this process. Every call shows the key of `caller`, if
// there is one: by TLS, or on a connection that does not leave this machine.
// INVALID_ARGUMENT names a file and what is wrong with it, or says that the key
// would be sent in plain.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(
    const std::string& server, const TlsOptions& tls,
    const CallerOptions& caller, bool own_connection = false);

// Tells the session that a call is about as the metadata "x-session-id", by
// which a proxy can choose the server. "" and what is no id, which the server
// will refuse, are left out.
void TellSession(const std::string& session_id, grpc::ClientContext* context);

}  // namespace engram::client

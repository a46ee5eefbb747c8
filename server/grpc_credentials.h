// How gRPC's connections are secured: in plain, or by TLS with a certificate
// that may change while it serves.
#pragma once

#include <memory>

namespace grpc {
class ServerCredentials;
}  // namespace grpc

namespace engram {

class TlsIdentity;

// Without `identity` nothing is encrypted. With it, each new connection gets
// what the identity serves at that moment (TLS 1.2 or newer, and of 1.2 only
// suites with forward secrecy and authenticated encryption, which is gRPC's own
// choice); what is open goes on. `identity` outlives all servers that use it.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(
    const TlsIdentity* identity);

}  // namespace engram

// Who may call, asked of gRPC's calls: each reactor of ours begins with
// AdmitCall, and where it says no the call gets a RefusedCall
// (server/refused_call.h) in its place.
#pragma once

#include <grpcpp/grpcpp.h>

#include "absl/status/statusor.h"
#include "server/access.h"
#include "server/caller.h"
#include "server/generation_call.h"

namespace engram {

// What a call shows, by its metadata and its connection; `context` outlives it.
ShownIdentity ShownBy(const grpc::ServerContextBase& context);

// Access::Admit; reports refusals. `method` is MethodNeed::method.
absl::StatusOr<Caller> AdmitCall(const CallSurroundings& around,
                                 const grpc::ServerContextBase& context,
                                 absl::string_view method);

// The same of a call that `before` began and would go on with. UNAUTHENTICATED,
// too, if the key is another tenant's now.
absl::Status AdmitAgain(const CallSurroundings& around,
                        const grpc::ServerContextBase& context,
                        const Caller& before, absl::string_view method);

}  // namespace engram

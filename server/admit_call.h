// Who may call, asked of gRPC's calls: each reactor of ours begins by
// StartAdmitted, and where it says no the call gets a RefusedCall
// (server/refused_call.h) in its place.
#pragma once

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/status/statusor.h"
#include "server/access.h"
#include "server/caller.h"
#include "server/generation_call.h"
#include "server/refused_call.h"
#include "server/wire.h"

namespace engram {

// Access::Admit; reports refusals. `method` is MethodNeed::method.
absl::StatusOr<Caller> AdmitCall(const CallSurroundings& around,
                                 const grpc::ServerContextBase& context,
                                 absl::string_view method);

// The reactor that `start` makes for the caller, or that of a refusal.
template <typename Reactor, typename Start>
Reactor* StartAdmitted(const CallSurroundings& around,
                       grpc::CallbackServerContext* context,
                       absl::string_view method, Start start) {
  absl::StatusOr<Caller> caller = AdmitCall(around, *context, method);
  if (caller.ok()) return start(*std::move(caller));
  return RefusedCall<Reactor>::Start(ToGrpc(caller.status(), context));
}

// AdmitCall of a call that `before` began and would go on with.
// UNAUTHENTICATED, too, if the key is another tenant's now.
absl::Status AdmitAgain(const CallSurroundings& around,
                        const grpc::ServerContextBase& context,
                        const Caller& before, absl::string_view method);

}  // namespace engram

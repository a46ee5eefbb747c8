// Who may call, asked of gRPC's calls: each reactor of ours begins with
// AdmitCall, and where it says no the call gets a RefusedCall in its place.
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

// A call that ends at once. It owns itself until gRPC is done with it.
template <typename Reactor>
class RefusedCall final : public Reactor {
 public:
  static Reactor* Start(const grpc::Status& status) {
    auto* const call = new RefusedCall;
    call->Finish(status);
    return call;
  }

 private:
  RefusedCall() = default;
  void OnDone() override { delete this; }
};

}  // namespace engram

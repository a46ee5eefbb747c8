// RefusedCall: a call that ends at once, in place of the one that it was to be.
// It owns itself until gRPC is done with it.
//
// Thread-safe: nobody else has it.
#pragma once

#include <grpcpp/grpcpp.h>

namespace engram {

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

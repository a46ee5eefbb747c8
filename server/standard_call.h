// StandardCallGuard: who may call the services that are not ours: health,
// reflection, channelz. What runs them is mostly gRPC's own and asks nobody, so
// a call that may not go on is ended when its metadata are there, before
// anything answers it.
//
// Thread-safe.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_interceptor.h>

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace engram {

// Why a call may not go on; `method` is its path.
using AskToGoOn = std::function<absl::Status(
    const grpc::ServerContextBase& context, absl::string_view method)>;

class StandardCallGuard final
    : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit StandardCallGuard(AskToGoOn ask) : ask_(std::move(ask)) {}

 private:
  class Call;

  // Null for our services' calls, which ask for themselves.
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

  const AskToGoOn ask_;
};

}  // namespace engram

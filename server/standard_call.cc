#include "server/standard_call.h"

#include <grpc/grpc.h>

#include <string>
#include <utility>

#include "absl/strings/match.h"

namespace engram {

class StandardCallGuard::Call final : public grpc::experimental::Interceptor {
 public:
  Call(const AskToGoOn* ask, grpc::experimental::ServerRpcInfo* info)
      : ask_(*ask), context_(info->server_context()), method_(info->method()) {}

  void Intercept(
      grpc::experimental::InterceptorBatchMethods* methods) override {
    using Hook = grpc::experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(Hook::POST_RECV_INITIAL_METADATA)) {
      EndUnlessItMayGoOn();
    }
    methods->Proceed();
  }

 private:
  void EndUnlessItMayGoOn() {
    const absl::Status status = ask_(*context_, method_);
    if (status.ok()) return;
    const std::string message(status.message());
    grpc_call_cancel_with_status(context_->c_call(),
                                 static_cast<grpc_status_code>(status.code()),
                                 message.c_str(), nullptr);
  }

  const AskToGoOn& ask_;  // of the guard, which outlives all calls
  grpc::ServerContextBase* const context_;
  const std::string method_;
};

grpc::experimental::Interceptor* StandardCallGuard::CreateServerInterceptor(
    grpc::experimental::ServerRpcInfo* info) {
  if (absl::StartsWith(info->method(), "/engram.v1.")) return nullptr;
  return new Call(&ask_, info);  // gRPC owns it
}

}  // namespace engram

#include "server/live_calls.h"

#include <grpc/grpc.h>
#include <grpcpp/server_context.h>

#include <utility>
#include <vector>

#include "absl/strings/match.h"

namespace engram {

class LiveCalls::Call final : public grpc::experimental::Interceptor {
 public:
  Call(LiveCalls* calls, grpc::experimental::ServerRpcInfo* info)
      : calls_(calls),
        context_(info->server_context()),
        peer_(context_->peer()) {
    calls_->on_begin_(peer_);
    calls_->Add(this, {context_->c_call(),
                       absl::StartsWith(info->method(), "/engram.v1.")});
  }
  ~Call() override {
    calls_->Remove(this);
    calls_->on_end_(peer_);
  }

  void Intercept(
      grpc::experimental::InterceptorBatchMethods* methods) override {
    using Hook = grpc::experimental::InterceptionHookPoints;
    // Calls of services that block have none before.
    if (methods->QueryInterceptionHookPoint(Hook::POST_RECV_INITIAL_METADATA)) {
      calls_->SetCall(this, context_->c_call());
    }
    methods->Proceed();
  }

 private:
  LiveCalls* const calls_;
  grpc::ServerContextBase* const context_;
  const std::string peer_;
};

class LiveCalls::Factory final
    : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(LiveCalls* calls) : calls_(calls) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new Call(calls_, info);  // gRPC owns it
  }

 private:
  LiveCalls* const calls_;
};

LiveCalls::LiveCalls(Observer on_begin, Observer on_end)
    : on_begin_(std::move(on_begin)), on_end_(std::move(on_end)) {}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>
LiveCalls::MakeFactory() {
  return std::make_unique<Factory>(this);
}

void LiveCalls::Add(const Call* call, const Entry& entry) {
  absl::MutexLock lock(&mutex_);
  calls_.emplace(call, entry);
  ours_ += entry.ours ? 1 : 0;
}

void LiveCalls::SetCall(const Call* call, grpc_call* of_grpc) {
  absl::MutexLock lock(&mutex_);
  const auto found = calls_.find(call);
  if (found != calls_.end()) found->second.call = of_grpc;
}

void LiveCalls::Remove(const Call* call) {
  absl::MutexLock lock(&mutex_);
  const auto found = calls_.find(call);
  if (found == calls_.end()) return;
  ours_ -= found->second.ours ? 1 : 0;
  calls_.erase(found);
}

bool LiveCalls::AwaitNone(Of which, absl::Time deadline) const {
  const auto none = [this, which]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return which == Of::kOurServices ? ours_ == 0 : calls_.empty();
  };
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithDeadline(absl::Condition(&none), deadline);
}

void LiveCalls::EndAll(const std::string& message) {
  std::vector<grpc_call*> ended;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [call, entry] : calls_) {
      if (entry.call == nullptr) continue;  // it has only begun to begin
      grpc_call_ref(entry.call);
      ended.push_back(entry.call);
    }
  }
  // Without the lock: what a call does at its end may come to Remove.
  for (grpc_call* call : ended) {
    grpc_call_cancel_with_status(call, GRPC_STATUS_UNAVAILABLE, message.c_str(),
                                 nullptr);
    grpc_call_unref(call);
  }
}

}  // namespace engram

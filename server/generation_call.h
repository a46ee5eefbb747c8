// What the calls share: how a message becomes a feed of events, and how a call
// that is gone takes its turn with it.
//
// A call object owns itself until gRPC is done with it, and whoever calls back
// into it later (the engine, for one) holds it only weakly.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engram/v1/generation.pb.h"
#include "model/work_check.h"
#include "server/options.h"
#include "server/reply_budget.h"
#include "server/request_threads.h"
#include "server/served_model.h"
#include "server/stop_signal.h"
#include "server/turn_feed.h"

namespace engram {

// What all calls of a server share; it outlives them.
struct CallSurroundings {
  const ServedModels& models;
  const ServerOptions& options;
  RequestThreads& threads;
  ReplyBudget& replies;
  StopSignal& stop;
};

// Why gRPC cancelled a call: it does so too when the deadline passes.
absl::Status CancelReason(const grpc::CallbackServerContext& context);

// Tells log and metrics of a turn that came to nothing before a model took it.
// `method` is the call's: "Generate" or "Converse".
void ReportRefusal(const CallSurroundings& around, const char* method,
                   const v1::GenerateRequest& message,
                   const absl::Status& status);

// Reports refusals. Ends early with what `may_go_on` says; `check` sees the
// request before a model does, and may refuse it. Errors:
// ServedModels::Find, ToRequest, TurnFeed::Submit.
absl::StatusOr<std::unique_ptr<TurnFeed>> SubmitMessage(
    const CallSurroundings& around, const grpc::CallbackServerContext& context,
    const v1::GenerateRequest& message, const char* method,
    const WorkCheck::Ask& may_go_on,
    const std::function<absl::Status(const Request&)>& check);
absl::StatusOr<std::unique_ptr<TurnFeed>> SubmitMessage(
    const CallSurroundings& around, const grpc::CallbackServerContext& context,
    const v1::ScoreRequest& message, const WorkCheck::Ask& may_go_on,
    const std::function<absl::Status(const Request&)>& check);

// The feed of a call that has one: there is none until its message is read,
// and the client may go away before. Thread-safe.
class CallFeed {
 public:
  explicit CallFeed(const grpc::CallbackServerContext* context)
      : context_(context) {}

  // Once. Cancels the feed if the client has gone meanwhile.
  void Set(std::shared_ptr<TurnFeed> feed) {
    {
      absl::MutexLock lock(&mutex_);
      feed_ = feed;
      if (!client_gone_) return;
    }
    feed->Cancel(CancelReason(*context_));
  }

  // The client cancelled or went away.
  void Cancel() {
    std::shared_ptr<TurnFeed> feed;
    {
      absl::MutexLock lock(&mutex_);
      client_gone_ = true;
      feed = feed_;
    }
    if (feed != nullptr) feed->Cancel(CancelReason(*context_));
  }

  // As TurnFeed::Pop, but passes over events that nobody is there to read: what
  // is still awaited is the end. REQUIRES: Set.
  TurnFeed::State Pop(Event* event, absl::Status* status) {
    std::shared_ptr<TurnFeed> feed;
    bool skip = false;
    {
      absl::MutexLock lock(&mutex_);
      feed = feed_;
      skip = client_gone_;
    }
    auto state = feed->Pop(event, status);
    while (skip && state == TurnFeed::State::kEvent) {
      state = feed->Pop(event, status);
    }
    return state;
  }

 private:
  const grpc::CallbackServerContext* const context_;
  absl::Mutex mutex_;
  std::shared_ptr<TurnFeed> feed_ ABSL_GUARDED_BY(mutex_);
  bool client_gone_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace engram

// UnaryCall: a call with one message and one answer. It decodes the message
// (a long one on server/request_threads), and counts the answer against
// server/reply_budget until the client has read it. A client that does not read
// in time loses its call.
//
// A call owns itself until gRPC is done with it.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/admit_call.h"
#include "server/generation_call.h"
#include "server/reply_budget.h"
#include "server/request_threads.h"
#include "server/wire_message.h"

namespace engram {

// What does not depend on the messages' types.
class UnaryCallBase : public grpc::ServerUnaryReactor {
 public:
  // What log and metrics tell of the call.
  struct Subject {
    std::string model;  // one that is served, or empty
    std::string session_id;
  };

  // `message` and `reply` live as long as the call. `method` is
  // RequestSummary::method.
  UnaryCallBase(const CallSurroundings& around,
                grpc::CallbackServerContext* context, Caller caller,
                const grpc::ByteBuffer* message, grpc::ByteBuffer* reply,
                const char* method);

  // Once. `self` is this, which stays until gRPC is done with it.
  void Start(std::shared_ptr<UnaryCallBase> self);

  const CallSurroundings& around() const { return around_; }
  grpc::CallbackServerContext& context() const { return *context_; }
  const Caller& caller() const { return caller_; }

  // OK while the answer is wanted, else why it is not.
  absl::Status MayGoOn() const { return work_.MayGoOn(); }

  // Room for an answer of about so many bytes, before it is made.
  absl::Status Reserve(int64_t bytes) { return reservation_.Resize(bytes); }

  void SetSubject(Subject subject);

 protected:
  // Decodes `bytes` and answers, by Answer in the end, on any thread.
  virtual void Run(const grpc::ByteBuffer& bytes) = 0;
  // The client went away, for `reason`. Answer is still to be called.
  virtual void OnGone(const absl::Status& /*reason*/) {}

  // Once. The answer is `response` if `status` is OK; it is emptied in any
  // case. `reported`: log and metrics know the end of this call already.
  void Answer(absl::Status status, google::protobuf::Message* response,
              bool reported = false);

 private:
  void OnCancel() override;
  void OnDone() override;
  absl::Status WriteReply(const google::protobuf::Message& response);
  void EndIfUnread();

  const CallSurroundings& around_;
  grpc::CallbackServerContext* const context_;
  const Caller caller_;
  const grpc::ByteBuffer* const message_;
  grpc::ByteBuffer* const reply_;
  const char* const method_;
  Subject subject_;
  ReplyReservation reservation_;
  RequestWork work_;

  absl::Mutex mutex_;
  std::shared_ptr<UnaryCallBase> self_ ABSL_GUARDED_BY(mutex_);  // until OnDone
  grpc::Alarm unread_;  // when the client has had its time to read
};

// A call whose answer is made by a function.
template <typename Request, typename Response>
class UnaryCall final
    : public UnaryCallBase,
      public std::enable_shared_from_this<UnaryCall<Request, Response>> {
 public:
  // Calls Finish, at once or later.
  using Handler = std::function<void(const std::shared_ptr<UnaryCall>& call)>;

  UnaryCall(const CallSurroundings& around,
            grpc::CallbackServerContext* context, Caller caller,
            const grpc::ByteBuffer* message, grpc::ByteBuffer* reply,
            const char* method, Handler handler)
      : UnaryCallBase(around, context, std::move(caller), message, reply,
                      method),
        handler_(std::move(handler)) {}

  // Until Finish.
  const Request& request() const { return request_; }
  Response* response() { return &response_; }

  // Once: the end of the call.
  void Finish(absl::Status status) {
    // It may be long, and its answer may wait to be read.
    request_ = Request();
    Answer(std::move(status), &response_);
  }

 private:
  void Run(const grpc::ByteBuffer& bytes) override {
    absl::Status status = ParseMessage(bytes, &request_);
    if (!status.ok()) return Finish(std::move(status));
    handler_(this->shared_from_this());
  }

  const Handler handler_;
  Request request_;
  Response response_;
};

// If the caller may call `method`.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* StartUnaryCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context,
    const grpc::ByteBuffer* message, grpc::ByteBuffer* reply,
    const char* method,
    typename UnaryCall<Request, Response>::Handler handler) {
  return StartAdmitted<grpc::ServerUnaryReactor>(
      around, context, method, [&](Caller caller) {
        auto call = std::make_shared<UnaryCall<Request, Response>>(
            around, context, std::move(caller), message, reply, method,
            std::move(handler));
        call->Start(call);
        return call.get();
      });
}

}  // namespace engram

#include "server/converse_call.h"

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "engram/v1/generation.grpc.pb.h"
#include "kernels/status.h"
#include "server/wire.h"

namespace engram {
namespace {

// Messages are decoded here and not by gRPC, for which one that cannot be
// decoded looks like the end of the stream.
class ConverseCall final
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
      public std::enable_shared_from_this<ConverseCall> {
 public:
  static grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Start(
      const CallSurroundings& around, grpc::CallbackServerContext* context) {
    auto call = std::make_shared<ConverseCall>(around, context);
    call->self_ = call;
    call->Run();
    return call.get();
  }

  ConverseCall(const CallSurroundings& around, grpc::CallbackServerContext* context)
      : around_(around), context_(context) {}

 private:
  void Run() {
    StartSendInitialMetadata();
    StartRead(&incoming_);
    stop_ = around_.stop.Subscribe([weak = weak_from_this()] {
      if (auto call = weak.lock()) call->Stop();
    });
  }

  // The server is stopping: no further turn is to come.
  void Stop() {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    Pump();
  }

  void OnSendInitialMetadataDone(bool ok) override { OnWriteDone(ok); }

  void OnWriteDone(bool ok) override {
    std::shared_ptr<TurnFeed> feed;
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok) broken_ = true;
      feed = feed_;
    }
    if (!ok && feed != nullptr) feed->Cancel(CancelReason(*context_));
    Pump();
  }

  void OnReadDone(bool ok) override {
    v1::ConverseRequest request;
    if (!ok) {
      absl::MutexLock lock(&mutex_);
      reads_done_ = true;
    } else if (!grpc::SerializationTraits<v1::ConverseRequest>::Deserialize(
                    &incoming_, &request)
                    .ok()) {
      absl::MutexLock lock(&mutex_);
      error_ = absl::InvalidArgumentError(
          "a message is no ConverseRequest, or a text in it is not UTF-8");
    } else if (request.has_turn()) {
      absl::MutexLock lock(&mutex_);
      // No further read until this turn has started: at most one is held.
      held_ = std::move(*request.mutable_turn());
    } else if (request.has_cancel()) {
      CancelTurn();
      StartRead(&incoming_);
    } else {
      absl::MutexLock lock(&mutex_);
      error_ = absl::InvalidArgumentError(
          "a ConverseRequest has neither turn nor cancel");
    }
    Pump();
  }

  void OnCancel() override {
    std::shared_ptr<TurnFeed> feed;
    {
      absl::MutexLock lock(&mutex_);
      broken_ = true;
      reads_done_ = true;
      held_.reset();
      feed = feed_;
    }
    if (feed != nullptr) feed->Cancel(CancelReason(*context_));
    Pump();
  }

  void OnDone() override {
    around_.stop.Unsubscribe(stop_);
    self_.reset();
  }

  void CancelTurn() {
    std::shared_ptr<TurnFeed> feed;
    {
      absl::MutexLock lock(&mutex_);
      feed = feed_;
      turn_cancelled_ = feed != nullptr;
    }
    if (feed != nullptr) {
      feed->Cancel(absl::CancelledError("the client cancelled the turn"));
    }
  }

  enum class Next { kNothing, kWrite, kFinish, kStartTurn };

  void Pump() {
    const auto keep = shared_from_this();
    absl::Status status;
    switch (TakeNext(&status)) {
      case Next::kNothing:
        return;
      case Next::kWrite:
        return StartWrite(&outgoing_);
      case Next::kFinish:
        return Finish(ToGrpc(status, context_));
      case Next::kStartTurn:
        const absl::Status taken = around_.texts.Run(
            turn_.text().size(),
            [keep] { keep->StartTurn(keep->SubmitTurn(&keep->turn_)); });
        if (!taken.ok()) StartTurn(taken);
    }
  }

  Next TakeNext(absl::Status* status) {
    absl::MutexLock lock(&mutex_);
    if (writing_ || starting_ || finished_) return Next::kNothing;
    if (feed_ != nullptr) {
      const Next next = TakeEvent(status);
      if (feed_ != nullptr) return next;
      if (next != Next::kNothing) return next;
    }
    if (!error_.ok()) {
      *status = error_;
    } else if (held_.has_value()) {
      starting_ = true;
      turn_ = *std::exchange(held_, std::nullopt);
      return Next::kStartTurn;
    } else if (stopping_ && !reads_done_) {
      *status =
          absl::UnavailableError("the server is stopping; try another one");
    } else if (!reads_done_) {
      return Next::kNothing;
    }
    finished_ = true;
    return Next::kFinish;
  }

  // The running turn's next event; feed_ is nullptr after its end.
  Next TakeEvent(absl::Status* status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Event event;
    auto state = feed_->Pop(&event, status);
    while (broken_ && state == TurnFeed::State::kEvent) {
      state = feed_->Pop(&event, status);
    }
    if (state == TurnFeed::State::kEmpty) return Next::kNothing;
    if (state == TurnFeed::State::kEvent) {
      if (auto* started = std::get_if<StartedEvent>(&event)) {
        told_start_ = true;
        turn_end_.version = started->version;
        turn_end_.position = started->position;
      }
      told_end_ = std::holds_alternative<CompletedEvent>(event);
      return Write(std::move(event));
    }
    feed_ = nullptr;
    if (turn_cancelled_ && status->code() == absl::StatusCode::kCancelled) {
      // A cancelled turn is answered with Completed like any other.
      *status = absl::OkStatus();
      if (!told_end_) {
        if (!told_start_) ReadSession(&turn_end_);
        return Write(turn_end_);
      }
    }
    error_.Update(*status);  // a malformed message may have come before
    return Next::kNothing;
  }

  // What the session is, for a turn that was cancelled before it started.
  void ReadSession(CompletedEvent* end) const {
    const absl::StatusOr<SessionInfo> session =
        around_.models.sessions()->Get(session_id_);
    if (!session.ok()) return;  // it has no turns yet
    end->version = session->version;
    end->position = session->position;
  }

  Next Write(Event event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto response = ToResponse<v1::ConverseResponse>(std::move(event));
    outgoing_.Clear();
    bool owned = false;
    ENGRAM_CHECK(grpc::SerializationTraits<v1::ConverseResponse>::Serialize(
                     response, &outgoing_, &owned)
                     .ok());
    writing_ = true;
    return Next::kWrite;
  }

  // The turn was submitted, or refused.
  void StartTurn(absl::StatusOr<std::shared_ptr<TurnFeed>> feed) {
    KeepTurn(std::move(feed));
    // Before another thread may finish the call.
    StartRead(&incoming_);
    {
      absl::MutexLock lock(&mutex_);
      starting_ = false;
    }
    Pump();
  }

  void KeepTurn(absl::StatusOr<std::shared_ptr<TurnFeed>> feed) {
    absl::MutexLock lock(&mutex_);
    turn_cancelled_ = false;
    told_start_ = false;
    told_end_ = false;
    turn_end_ = CompletedEvent();
    turn_end_.finish_reason = FinishReason::kCancelled;
    if (feed.ok()) {
      feed_ = *std::move(feed);
      if (broken_) feed_->Cancel(CancelReason(*context_));
    } else {
      error_ = feed.status();
    }
  }

  absl::StatusOr<std::shared_ptr<TurnFeed>> SubmitTurn(
      v1::GenerateRequest* message) {
    if (session_id_.empty()) {
      session_id_ =
          message->session_id().empty() ? RandomId() : message->session_id();
    }
    if (message->session_id().empty()) message->set_session_id(session_id_);
    if (message->session_id() != session_id_) {
      return absl::InvalidArgumentError(absl::StrCat(
          "session_id is \"", message->session_id(),
          "\", but this stream is on session \"", session_id_, "\""));
    }
    if (message->model().empty()) message->set_model(model_);
    model_ = message->model();
    ENGRAM_ASSIGN_OR_RETURN(
        std::unique_ptr<TurnFeed> feed,
        SubmitMessage(around_, *context_, *message, "Converse"));
    feed->SetReady([weak = weak_from_this()] {
      if (auto call = weak.lock()) call->Pump();
    });
    return std::shared_ptr<TurnFeed>(std::move(feed));
  }

  const CallSurroundings& around_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<ConverseCall> self_;  // until OnDone
  std::atomic<int64_t> stop_ = 0;       // of around_.stop

  // Touched only by the one thread that starts a turn, and while none does.
  v1::GenerateRequest turn_;
  std::string session_id_;
  std::string model_;
  // The read or write in flight owns these.
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;

  absl::Mutex mutex_;
  std::shared_ptr<TurnFeed> feed_ ABSL_GUARDED_BY(mutex_);  // running turn's
  std::optional<v1::GenerateRequest> held_ ABSL_GUARDED_BY(mutex_);
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  CompletedEvent turn_end_ ABSL_GUARDED_BY(mutex_);  // if it is cancelled
  bool turn_cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_start_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_end_ ABSL_GUARDED_BY(mutex_) = false;
  bool starting_ ABSL_GUARDED_BY(mutex_) = false;
  bool reads_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = true;  // the initial metadata
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartConverseCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context) {
  return ConverseCall::Start(around, context);
}

}  // namespace engram

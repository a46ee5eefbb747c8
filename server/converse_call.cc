#include "server/converse_call.h"

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "engram/v1/generation.pb.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "server/request_id.h"
#include "server/wire.h"
#include "server/wire_message.h"

namespace engram {
namespace {

// A message goes through three hands, each of which may take its time: it is
// read (OnReadDone), decoded (TakeMessage), and, if it is a turn, started
// (StartTurn). The next one is read when the one before needs no more room, so
// that a turn that runs or is being started can be cancelled.
class ConverseCall final
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
      public std::enable_shared_from_this<ConverseCall> {
 public:
  static grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Start(
      const CallSurroundings& around, grpc::CallbackServerContext* context) {
    auto call = std::make_shared<ConverseCall>(around, context);
    call->self_ = call;
    call->StartSendInitialMetadata();
    call->StartRead(&call->incoming_);
    call->stop_ = around.stop.Subscribe([weak = call->weak_from_this()] {
      if (auto call = weak.lock()) call->Stop();
    });
    return call.get();
  }

  ConverseCall(const CallSurroundings& around,
               grpc::CallbackServerContext* context)
      : around_(around), context_(context) {}

 private:
  // --- From gRPC.

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
    const auto keep = shared_from_this();
    if (!ok) {
      {
        absl::MutexLock lock(&mutex_);
        reads_done_ = true;
      }
      return Pump();
    }
    auto work = std::make_shared<RequestWork>(&around_.threads);
    {
      absl::MutexLock lock(&mutex_);
      ++in_hand_;
      decoding_ = work;
      if (broken_) work->Cancel(CancelReason(*context_));
    }
    work->Start(
        context_->peer(), incoming_.Length(),
        [keep](const absl::Status& status) { keep->TakeMessage(status); });
  }

  void OnCancel() override {
    const absl::Status reason = CancelReason(*context_);
    std::shared_ptr<TurnFeed> feed;
    std::shared_ptr<RequestWork> decoding, starting;
    {
      absl::MutexLock lock(&mutex_);
      broken_ = true;
      reads_done_ = true;
      held_.reset();
      feed = feed_;
      decoding = decoding_;
      starting = start_;
    }
    if (feed != nullptr) feed->Cancel(reason);
    if (decoding != nullptr) decoding->Cancel(reason);
    if (starting != nullptr) starting->Cancel(reason);
    Pump();
  }

  void OnDone() override {
    around_.stop.Unsubscribe(stop_);
    self_.reset();
  }

  // The server is stopping: no further turn is to come.
  void Stop() {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    Pump();
  }

  // --- Messages.

  void TakeMessage(absl::Status status) {
    v1::ConverseRequest request;
    if (status.ok()) status = ParseMessage(incoming_, &request);
    incoming_.Clear();
    bool cancels = false;
    {
      absl::MutexLock lock(&mutex_);
      decoding_ = nullptr;
      if (!status.ok()) {
        error_ = status;
      } else if (request.has_turn()) {
        // No further read until this turn is started: at most one is held.
        if (!broken_) held_ = std::move(*request.mutable_turn());
      } else if (request.has_cancel()) {
        cancels = true;
      } else {
        error_ = status = absl::InvalidArgumentError(
            "a ConverseRequest has neither turn nor cancel");
      }
    }
    if (!status.ok()) {
      ReportRefusal(around_, "Converse", v1::GenerateRequest(), status);
    }
    if (cancels) {
      CancelTurn();
      StartRead(&incoming_);
    }
    {
      absl::MutexLock lock(&mutex_);
      --in_hand_;
    }
    Pump();
  }

  // Nothing, if no turn runs or is being started.
  void CancelTurn() {
    const absl::Status reason =
        absl::CancelledError("the client cancelled the turn");
    std::shared_ptr<TurnFeed> feed;
    std::shared_ptr<RequestWork> starting;
    {
      absl::MutexLock lock(&mutex_);
      feed = feed_;
      starting = start_;
      if (feed != nullptr || starting != nullptr) turn_cancelled_ = true;
    }
    if (feed != nullptr) feed->Cancel(reason);
    if (starting != nullptr) starting->Cancel(reason);
  }

  // --- What comes next.

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
        return StartTurn();
    }
  }

  Next TakeNext(absl::Status* status) {
    absl::MutexLock lock(&mutex_);
    if (writing_ || start_ != nullptr || finished_) return Next::kNothing;
    if (feed_ != nullptr) {
      const Next next = TakeEvent(status);
      if (feed_ != nullptr || next != Next::kNothing) return next;
    }
    if (!last_events_.empty() && !broken_) {
      Event event = std::move(last_events_.front());
      last_events_.pop_front();
      if (Write(std::move(event)) == Next::kWrite) return Next::kWrite;
    }
    if (!error_.ok()) {
      *status = error_;
    } else if (held_.has_value()) {
      turn_ = *std::exchange(held_, std::nullopt);
      start_ = std::make_shared<RequestWork>(&around_.threads);
      turn_cancelled_ = told_start_ = told_end_ = false;
      return Next::kStartTurn;
    } else if (stopping_ && !reads_done_) {
      *status =
          absl::UnavailableError("the server is stopping; try another one");
    } else if (!reads_done_) {
      return Next::kNothing;
    }
    // Whoever has a message in hand may start a read.
    if (in_hand_ > 0) return Next::kNothing;
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
        turn_start_ = *started;
      }
      told_end_ = std::holds_alternative<CompletedEvent>(event);
      return Write(std::move(event));
    }
    feed_ = nullptr;
    if (turn_cancelled_ && status->code() == absl::StatusCode::kCancelled) {
      TellCancelled();
      *status = absl::OkStatus();
    }
    error_.Update(*status);  // a malformed message may have come before
    return Next::kNothing;
  }

  // A turn that the client cancelled is answered like any other: with Started
  // and Completed, whether it ever ran or not.
  void TellCancelled() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (told_end_) return;  // its fragment was kept
    if (!told_start_) {
      const absl::StatusOr<SessionInfo> session =
          around_.models.sessions()->Get(session_id_);
      if (session.ok()) {  // else it has no turns yet
        turn_start_.version = session->version;
        turn_start_.position = session->position;
        turn_start_.cached_tokens = session->position;
      }
      last_events_.push_back(turn_start_);
    }
    CompletedEvent completed;
    completed.finish_reason = FinishReason::kCancelled;
    completed.version = turn_start_.version;
    completed.position = turn_start_.position;
    last_events_.push_back(std::move(completed));
  }

  Next Write(Event event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::Status status = SerializeMessage(
        ToResponse<v1::ConverseResponse>(std::move(event)), &outgoing_);
    if (!status.ok()) {
      error_.Update(status);
      if (feed_ != nullptr) feed_->Cancel(status);
      return Next::kNothing;
    }
    writing_ = true;
    return Next::kWrite;
  }

  // --- Turns.

  // Submits turn_, at once or when its turn has come on the request threads.
  void StartTurn() {
    const auto keep = shared_from_this();
    std::shared_ptr<RequestWork> work;
    {
      absl::MutexLock lock(&mutex_);
      work = start_;
      if (broken_) work->Cancel(CancelReason(*context_));
    }
    // What comes next may be a cancellation of this turn. Nobody finishes the
    // call while it is being started.
    StartRead(&incoming_);
    const absl::Status named = NameSession();
    started_ = ToStarted(turn_);
    if (!named.ok()) return RefuseTurn(named);
    work->Start(context_->peer(), turn_.ByteSizeLong(),
                [keep, work](const absl::Status& status) {
                  if (!status.ok()) return keep->RefuseTurn(status);
                  keep->KeepTurn(keep->SubmitTurn(*work));
                });
  }

  void RefuseTurn(const absl::Status& status) {
    ReportRefusal(around_, "Converse", turn_, status);
    KeepTurn(status);
  }

  // The turn was submitted, or came to nothing.
  void KeepTurn(absl::StatusOr<std::shared_ptr<TurnFeed>> feed) {
    // It may be long, and the stream may stay for ever.
    turn_ = v1::GenerateRequest();
    std::shared_ptr<TurnFeed> unwanted;
    absl::Status reason;
    {
      absl::MutexLock lock(&mutex_);
      start_ = nullptr;
      turn_start_ = std::move(started_);
      if (feed.ok()) {
        feed_ = *std::move(feed);
        if (broken_) {
          unwanted = feed_;
          reason = CancelReason(*context_);
        } else if (turn_cancelled_) {
          unwanted = feed_;
          reason = absl::CancelledError("the client cancelled the turn");
        }
      } else if (turn_cancelled_ &&
                 feed.status().code() == absl::StatusCode::kCancelled) {
        TellCancelled();
      } else {
        error_.Update(feed.status());
      }
    }
    if (unwanted != nullptr) unwanted->Cancel(reason);
    Pump();
  }

  // A turn that leaves session and model open is on those of the stream.
  absl::Status NameSession() {
    if (turn_.session_id().empty()) turn_.set_session_id(session_id_);
    if (turn_.session_id().empty()) turn_.set_session_id(RandomId());
    if (session_id_.empty()) session_id_ = turn_.session_id();
    if (turn_.session_id() != session_id_) {
      return absl::InvalidArgumentError(absl::StrCat(
          "session_id is ", Quoted(turn_.session_id()),
          ", but this stream is on session ", Quoted(session_id_)));
    }
    if (turn_.model().empty()) turn_.set_model(model_);
    model_ = turn_.model();
    return absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<TurnFeed>> SubmitTurn(
      const RequestWork& work) {
    ENGRAM_ASSIGN_OR_RETURN(
        std::unique_ptr<TurnFeed> feed,
        SubmitMessage(
            around_, *context_, turn_, "Converse",
            [&work] { return work.MayGoOn(); },
            [this](const Request& request) {
              started_.request_id = request.request_id;
              started_.seed = static_cast<int64_t>(request.sampling.seed);
              return absl::OkStatus();
            }));
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
  StartedEvent started_;  // what the turn would start with
  std::string session_id_;
  std::string model_;
  // The read (and then who decodes it) or the write in flight owns these.
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;

  absl::Mutex mutex_;
  std::shared_ptr<TurnFeed> feed_ ABSL_GUARDED_BY(mutex_);  // running turn's
  // The turn that is being started, and the message that is being decoded.
  std::shared_ptr<RequestWork> start_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<RequestWork> decoding_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::GenerateRequest> held_ ABSL_GUARDED_BY(mutex_);
  // Of a turn that was cancelled, still to be written.
  std::deque<Event> last_events_ ABSL_GUARDED_BY(mutex_);
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  StartedEvent turn_start_ ABSL_GUARDED_BY(mutex_);
  bool turn_cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_start_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_end_ ABSL_GUARDED_BY(mutex_) = false;
  int in_hand_ ABSL_GUARDED_BY(mutex_) = 0;  // messages between two hands
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

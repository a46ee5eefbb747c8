#include "server/converse_call.h"

#include <atomic>
#include <memory>
#include <utility>
#include <variant>

#include "engram/v1/generation.pb.h"
#include "kernels/status.h"
#include "server/admit_call.h"
#include "server/conversation.h"
#include "server/wire.h"
#include "server/wire_message.h"

namespace engram {
namespace {

using Message = Conversation::Message;

// Carries out what its Conversation says, and tells it what came of it.
class ConverseCall final
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
      public std::enable_shared_from_this<ConverseCall> {
 public:
  static grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Start(
      const CallSurroundings& around, grpc::CallbackServerContext* context) {
    using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;
    return StartAdmitted<Reactor>(
        around, context, "Converse", [&](Caller caller) {
          auto call = std::make_shared<ConverseCall>(around, context,
                                                     std::move(caller));
          call->self_ = call;
          call->StartSendInitialMetadata();
          call->StartRead(&call->incoming_);
          call->stop_ = around.stop.Subscribe([weak = call->weak_from_this()] {
            const auto call = weak.lock();
            if (call == nullptr) return;
            call->conversation_.Stop();
            call->Pump();
          });
          return call.get();
        });
  }

  ConverseCall(const CallSurroundings& around,
               grpc::CallbackServerContext* context, Caller caller)
      : around_(around),
        context_(context),
        caller_(std::move(caller)),
        conversation_(around.models.sessions(), &around.threads,
                      caller_.tenant) {}

 private:
  // --- From gRPC.

  void OnSendInitialMetadataDone(bool ok) override { OnWriteDone(ok); }

  void OnWriteDone(bool ok) override {
    if (!ok) conversation_.Abandon(CancelReason(*context_));
    conversation_.EndWrite();
    Pump();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      conversation_.EndMessages();
      return Pump();
    }
    conversation_.BeginMessage()->Start(
        context_->peer(), incoming_.Length(),
        [keep = shared_from_this()](const absl::Status& status) {
          keep->TakeMessage(status);
        });
  }

  void OnCancel() override {
    conversation_.Abandon(CancelReason(*context_));
    Pump();
  }

  void OnDone() override {
    around_.stop.Unsubscribe(stop_);
    self_.reset();
  }

  // --- Messages and events.

  void TakeMessage(const absl::Status& read) {
    const absl::StatusOr<Message> message = Decode(read);
    if (!message.ok()) {
      ReportRefusal(around_, *context_, caller_, "Converse",
                    v1::GenerateRequest(), message.status());
    }
    if (conversation_.TakeMessage(message)) StartRead(&incoming_);
    conversation_.EndMessage();
    Pump();
  }

  absl::StatusOr<Message> Decode(absl::Status status) {
    v1::ConverseRequest request;
    if (status.ok()) status = ParseMessage(incoming_, &request);
    incoming_.Clear();
    ENGRAM_RETURN_IF_ERROR(status);
    if (request.has_cancel()) return Message::kCancel;
    if (!request.has_turn()) {
      return absl::InvalidArgumentError(
          "a ConverseRequest has neither turn nor cancel");
    }
    held_ = std::move(*request.mutable_turn());
    return Message::kTurn;
  }

  void Pump() {
    const auto keep = shared_from_this();
    while (true) {
      Conversation::Next next = conversation_.TakeNext();
      if (auto* turn = std::get_if<Conversation::StartTurn>(&next)) {
        return StartTurn(turn->work);
      }
      if (auto* end = std::get_if<Conversation::Finish>(&next)) {
        return Finish(ToGrpc(end->status, context_));
      }
      auto* write = std::get_if<Conversation::Write>(&next);
      if (write == nullptr) return;
      const absl::Status status = SerializeMessage(
          ToResponse<v1::ConverseResponse>(std::move(write->event)),
          &outgoing_);
      if (status.ok()) return StartWrite(&outgoing_);
      conversation_.FailWrite(status);
    }
  }

  // --- Turns.

  // Submits the turn that is held, at once or when its turn has come on the
  // request threads.
  void StartTurn(const std::shared_ptr<RequestWork>& work) {
    turn_ = std::exchange(held_, v1::GenerateRequest());
    // What comes next may be a cancellation of this turn. Nobody finishes the
    // call while it is being started.
    StartRead(&incoming_);
    const absl::Status named = conversation_.NameTurn(
        turn_.mutable_session_id(), turn_.mutable_model());
    started_ = ToStarted(turn_);
    if (!named.ok()) return RefuseTurn(named);
    // The stream may be older than the file of keys.
    const absl::Status admitted =
        AdmitAgain(around_, *context_, caller_, "Converse");
    if (!admitted.ok()) return KeepTurn(admitted);
    // It may be over, and forgotten by the conversation, before Start returns.
    work->Start(context_->peer(), turn_.ByteSizeLong(),
                [keep = shared_from_this(), work](const absl::Status& status) {
                  if (!status.ok()) return keep->RefuseTurn(status);
                  keep->KeepTurn(keep->SubmitTurn(*work));
                });
  }

  void RefuseTurn(const absl::Status& status) {
    ReportRefusal(around_, *context_, caller_, "Converse", turn_, status);
    KeepTurn(status);
  }

  // The turn was submitted, or came to nothing.
  void KeepTurn(absl::StatusOr<std::shared_ptr<TurnFeed>> feed) {
    // It may be long, and the stream may stay for ever.
    turn_ = v1::GenerateRequest();
    conversation_.KeepTurn(std::move(feed), std::move(started_));
    Pump();
  }

  absl::StatusOr<std::shared_ptr<TurnFeed>> SubmitTurn(
      const RequestWork& work) {
    ENGRAM_ASSIGN_OR_RETURN(
        std::shared_ptr<TurnFeed> feed,
        SubmitMessage(
            around_, *context_, caller_, turn_, "Converse",
            [&work] { return work.MayGoOn(); },
            [this](const Request& request) {
              started_.request_id = request.request_id;
              started_.seed = static_cast<int64_t>(request.sampling.seed);
              return absl::OkStatus();
            }));
    feed->SetReady([weak = weak_from_this()] {
      if (auto call = weak.lock()) call->Pump();
    });
    return feed;
  }

  const CallSurroundings& around_;
  grpc::CallbackServerContext* const context_;
  const Caller caller_;
  std::shared_ptr<ConverseCall> self_;  // until OnDone
  std::atomic<int64_t> stop_ = 0;       // of around_.stop
  Conversation conversation_;

  // Whoever takes a message owns it until the turn in it is started.
  v1::GenerateRequest held_;
  // Touched only by the one thread that starts a turn.
  v1::GenerateRequest turn_;
  StartedEvent started_;  // what the turn would start with
  // The read (and then who decodes it) or the write in flight owns these.
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartConverseCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context) {
  return ConverseCall::Start(around, context);
}

}  // namespace engram

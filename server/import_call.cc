#include "server/import_call.h"

#include <grpcpp/alarm.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "engram/v1/sessions.pb.h"
#include "kernels/status.h"
#include "model/quoted.h"
#include "server/admit_call.h"
#include "server/clock.h"
#include "server/state_file_model.h"
#include "server/state_file_reader.h"
#include "server/wire.h"
#include "server/wire_message.h"

namespace engram {
namespace {

constexpr char kMethod[] = "Sessions.Import";

// One message after the other: each is read, and taken in on the threads for
// long requests; only then the next one is read. What the state takes is
// counted against server/reply_budget until its session has it.
//
// Whoever has a message in hand may read the next one, so that the call is
// finished by who lets go of the last (as in server/conversation.h).
class ImportCall final : public grpc::ServerReadReactor<grpc::ByteBuffer>,
                         public std::enable_shared_from_this<ImportCall> {
 public:
  static grpc::ServerReadReactor<grpc::ByteBuffer>* Start(
      const CallSurroundings& around, grpc::CallbackServerContext* context,
      grpc::ByteBuffer* reply) {
    return StartAdmitted<grpc::ServerReadReactor<grpc::ByteBuffer>>(
        around, context, kMethod, [&](Caller caller) {
          auto call = std::make_shared<ImportCall>(around, context, reply,
                                                   std::move(caller));
          call->Begin(call);
          return call.get();
        });
  }

  ImportCall(const CallSurroundings& around,
             grpc::CallbackServerContext* context, grpc::ByteBuffer* reply,
             Caller caller)
      : around_(around),
        context_(context),
        reply_(reply),
        caller_(std::move(caller)),
        room_(&around.replies, context->peer()) {}

 private:
  void Begin(const std::shared_ptr<ImportCall>& self) {
    {
      absl::MutexLock lock(&mutex_);
      self_ = self;
      in_hand_ = 1;
    }
    ReadNext();
    stop_ = around_.stop.Subscribe([weak = weak_from_this()] {
      if (const auto call = weak.lock()) {
        call->Stop(absl::UnavailableError(
            "the server is stopping; import the state on another one"));
      }
    });
    LetGo();
  }

  // --- From gRPC.

  void OnReadDone(bool ok) override {
    unsent_ = nullptr;
    const std::shared_ptr<RequestWork> work = TakeInHand();
    if (work == nullptr) return;
    work->Start(context_->peer(), ok ? incoming_.Length() : left_to_check_,
                [keep = shared_from_this(), ok](const absl::Status& begun) {
                  absl::Status status = begun;
                  if (status.ok()) {
                    status = ok ? keep->TakeMessage() : keep->TakeEnd();
                  }
                  if (!status.ok() || !ok) {
                    keep->End(status);
                  } else {
                    keep->ReadNext();
                  }
                  keep->LetGo();
                });
  }

  void OnCancel() override { Stop(CancelReason(*context_)); }

  void OnDone() override {
    unsent_ = nullptr;
    around_.stop.Unsubscribe(stop_);
    std::shared_ptr<ImportCall> self;  // goes after the lock
    absl::MutexLock lock(&mutex_);
    self = std::move(self_);
  }

  // --- Messages. Only who has one in hand.

  // A client that does not send the next part in time loses the call.
  void ReadNext() {
    // One for each part: what was cancelled may still be on its way.
    unsent_ = std::make_unique<grpc::Alarm>();
    const absl::Duration limit = around_.options.slow_reader_timeout;
    unsent_->Set(
        absl::ToChronoTime(RealClock()->Now() + limit),
        [weak = weak_from_this(), limit](bool expired) {
          if (!expired) return;
          const auto call = weak.lock();
          if (call == nullptr) return;
          call->Stop(absl::ResourceExhaustedError(absl::StrCat(
              "no part of the state came for ", absl::FormatDuration(limit),
              " (--slow-reader-timeout); import it anew")));
        });
    StartRead(&incoming_);
  }

  absl::Status TakeMessage() {
    v1::ImportRequest message;
    const absl::Status status = ParseMessage(incoming_, &message);
    incoming_.Clear();
    ENGRAM_RETURN_IF_ERROR(status);
    if (message.has_header() != (reader_ == nullptr)) {
      return absl::InvalidArgumentError(
          "the first message of an Import is to be its header, and no other");
    }
    if (message.has_header()) return TakeHeader(message.header());
    if (message.data().empty()) {
      return absl::InvalidArgumentError("a part of the state has no bytes");
    }
    left_to_check_ += message.data().size();
    return reader_->Append(message.data());
  }

  absl::Status TakeHeader(const v1::ImportHeader& message) {
    SetSubject(message.has_checkpoint_id() ? message.checkpoint_id()
                                           : message.session_id());
    ENGRAM_ASSIGN_OR_RETURN(
        target_, ToImportTarget(message, caller_.tenant, around_.options));
    if (!target_->is_checkpoint) {
      ENGRAM_RETURN_IF_ERROR(CheckSessionMetadata(*context_, target_->name.id));
    }
    ENGRAM_ASSIGN_OR_RETURN(
        replaced_,
        target_->is_checkpoint
            ? sessions().BeginCheckpointImport(target_->name,
                                               target_->may_replace)
            : sessions().BeginImport(target_->name, target_->may_replace));
    reader_ = std::make_unique<StateFileReader>(StateFileReader::Surroundings{
        .find_model =
            [this](const std::string& told) -> absl::StatusOr<StateFileModel> {
          ENGRAM_ASSIGN_OR_RETURN(const ServedModel* model, FindModel(told));
          return FileModelOf(*model);
        },
        .reserve =
            [this](size_t bytes) {
              return room_.Resize(static_cast<int64_t>(bytes));
            },
        .checks_weights = !around_.options.import_unchecked_weights});
    return absl::OkStatus();
  }

  absl::StatusOr<const ServedModel*> FindModel(const std::string& told) const {
    const bool is_open =
        target_->model.empty() && around_.models.all().size() > 1;
    return around_.models.Find(is_open ? told : target_->model);
  }

  // The client has sent all.
  absl::Status TakeEnd() {
    if (context_->IsCancelled()) return CancelReason(*context_);
    if (reader_ == nullptr) {
      return absl::InvalidArgumentError("an Import without a header");
    }
    ENGRAM_ASSIGN_OR_RETURN(StateFileReader::State state, reader_->Finish());
    ENGRAM_RETURN_IF_ERROR(BeginCommit());
    v1::ImportResponse response;
    if (target_->is_checkpoint) {
      ENGRAM_ASSIGN_OR_RETURN(
          const SessionInfo made,
          sessions().ImportCheckpoint(
              caller_.tenant, state.model.number,
              {.id = target_->name.id, .labels = std::move(target_->labels)},
              replaced_, state.turns, std::move(state.block)));
      *response.mutable_checkpoint() = ToCheckpointMessage(made);
    } else {
      ENGRAM_ASSIGN_OR_RETURN(
          const SessionInfo made,
          sessions().Import({.name = target_->name,
                             .model = state.model.number,
                             .time_to_live = target_->time_to_live,
                             .labels = std::move(target_->labels)},
                            replaced_, state.turns, std::move(state.block)));
      *response.mutable_session() = ToMessage(made);
    }
    return SerializeMessage(response, reply_);
  }

  SessionStore& sessions() const { return *around_.models.sessions(); }

  // --- The end.

  // The next message, or the end of them, is in hand; nullptr if the call is
  // over.
  std::shared_ptr<RequestWork> TakeInHand() {
    absl::MutexLock lock(&mutex_);
    if (finished_) return nullptr;
    ++in_hand_;
    work_ = std::make_shared<RequestWork>(&around_.threads);
    if (end_.has_value()) work_->Cancel(*end_);
    return work_;
  }

  // From now on nothing stops the import.
  absl::Status BeginCommit() {
    absl::MutexLock lock(&mutex_);
    if (end_.has_value()) return *end_;
    commits_ = true;
    return absl::OkStatus();
  }

  // Ends the call from outside.
  void Stop(const absl::Status& reason) {
    std::shared_ptr<RequestWork> work;
    {
      absl::MutexLock lock(&mutex_);
      if (commits_ || end_.has_value()) return;
      end_ = reason;
      work = work_;
    }
    if (work != nullptr) work->Cancel(reason);
    FinishIfOver();
  }

  // Who has a message in hand ends the call with it.
  void End(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (!end_.has_value()) end_ = status;
  }

  void LetGo() {
    {
      absl::MutexLock lock(&mutex_);
      --in_hand_;
    }
    FinishIfOver();
  }

  void FinishIfOver() {
    absl::Status status;
    std::string subject;
    {
      absl::MutexLock lock(&mutex_);
      if (finished_ || in_hand_ > 0 || !end_.has_value()) return;
      finished_ = true;
      status = *end_;
      subject = subject_;
    }
    around_.models.ReportAnswer(caller_, kMethod, /*model=*/"", subject,
                                status);
    Finish(ToGrpc(status, context_));
  }

  void SetSubject(const std::string& id) {
    absl::MutexLock lock(&mutex_);
    subject_ = Shortened(id);
  }

  const CallSurroundings& around_;
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const reply_;
  const Caller caller_;
  int64_t stop_ = 0;  // of around_.stop

  // Who has a message in hand.
  ReplyReservation room_;
  std::optional<ImportTarget> target_;
  SessionStore::Replaced replaced_;
  std::unique_ptr<StateFileReader> reader_;  // once there is a header
  size_t left_to_check_ = 0;  // bytes of the file, when all are there
  // The read in flight, and then who has what it read.
  grpc::ByteBuffer incoming_;
  std::unique_ptr<grpc::Alarm> unsent_;  // of the part that is to come

  absl::Mutex mutex_;
  std::shared_ptr<ImportCall> self_ ABSL_GUARDED_BY(mutex_);  // until OnDone
  std::string subject_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<RequestWork> work_ ABSL_GUARDED_BY(mutex_);
  // Messages, the end of them included, that somebody has.
  int in_hand_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool commits_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerReadReactor<grpc::ByteBuffer>* StartImportCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context,
    grpc::ByteBuffer* reply) {
  return ImportCall::Start(around, context, reply);
}

}  // namespace engram

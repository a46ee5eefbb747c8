#include "server/export_call.h"

#include <grpcpp/alarm.h>

#include <memory>
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
#include "server/request_id.h"
#include "server/state_file.h"
#include "server/state_file_model.h"
#include "server/wire.h"
#include "server/wire_message.h"

namespace engram {
namespace {

constexpr char kMethod[] = "Sessions.Export";

// Of a part: some of them fill a connection, and none is long to make.
constexpr size_t kPartBytes = 256 << 10;

// The state is found first, whoever has it; then its checksum is made, on the
// threads for long requests; then it is written, part by part as the client
// reads. It is counted against server/reply_budget all the while: its session
// may be gone by then.
class ExportCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                         public std::enable_shared_from_this<ExportCall> {
 public:
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(
      const CallSurroundings& around, grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* message) {
    return StartAdmitted<grpc::ServerWriteReactor<grpc::ByteBuffer>>(
        around, context, kMethod, [&](Caller caller) {
          auto call =
              std::make_shared<ExportCall>(around, context, std::move(caller));
          {
            absl::MutexLock lock(&call->mutex_);
            call->self_ = call;
          }
          call->Run(TakeBytes(message));
          return call.get();
        });
  }

  ExportCall(const CallSurroundings& around,
             grpc::CallbackServerContext* context, Caller caller)
      : around_(around),
        context_(context),
        caller_(std::move(caller)),
        room_(&around.replies, context->peer()),
        work_(&around.threads) {}

 private:
  void Run(const grpc::ByteBuffer& bytes) {
    const absl::Status status = FindState(bytes);
    if (!status.ok()) End(status);
  }

  absl::Status FindState(const grpc::ByteBuffer& bytes) {
    v1::ExportRequest message;
    ENGRAM_RETURN_IF_ERROR(ParseMessage(bytes, &message));
    ENGRAM_ASSIGN_OR_RETURN(const SessionHandle source, FindSource(message));
    model_->devices.front().engine->Snapshot(
        source, [keep = shared_from_this()](
                    absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
          keep->TakeState(std::move(snapshot));
        });
    return absl::OkStatus();
  }

  absl::StatusOr<SessionHandle> FindSource(const v1::ExportRequest& message) {
    SessionStore& sessions = *around_.models.sessions();
    if (message.has_session_id()) {
      id_ = message.session_id();
      ENGRAM_RETURN_IF_ERROR(CheckId("session_id", id_));
      ENGRAM_RETURN_IF_ERROR(CheckSessionMetadata(*context_, id_));
      const SessionName name(caller_.tenant, id_);
      ENGRAM_ASSIGN_OR_RETURN(const SessionHandle session, sessions.Find(name));
      ENGRAM_ASSIGN_OR_RETURN(const int number, sessions.ModelOf(name));
      model_ = around_.models.all()[number].get();
      return session;
    }
    id_ = message.checkpoint_id();
    ENGRAM_RETURN_IF_ERROR(CheckId("checkpoint_id", id_));
    const SessionName name(caller_.tenant, id_);
    ENGRAM_ASSIGN_OR_RETURN(const int number, sessions.ModelOfCheckpoint(name));
    model_ = around_.models.all()[number].get();
    return sessions.UseCheckpoint(name, number);
  }

  // On an engine's thread, or this one.
  void TakeState(absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
    absl::Status status = snapshot.status();
    if (status.ok() && snapshot->block == nullptr) {
      status = absl::FailedPreconditionError(absl::StrCat(
          "session ", Quoted(id_), " has read nothing yet: there is no state"));
    }
    if (status.ok()) {
      status = room_.Resize(static_cast<int64_t>(snapshot->block->size()));
    }
    if (!status.ok()) return End(status);
    const size_t bytes = snapshot->block->size();
    work_.Start(context_->peer(), bytes,
                [keep = shared_from_this(),
                 state = *std::move(snapshot)](const absl::Status& begun) {
                  if (!begun.ok()) return keep->End(begun);
                  keep->file_ = std::make_unique<StateFileWriter>(
                      FileModelOf(*keep->model_), state.turns, state.block);
                  // As in server/generate_call.cc.
                  keep->StartSendInitialMetadata();
                });
  }

  void OnSendInitialMetadataDone(bool ok) override { OnWriteDone(ok); }

  void OnWriteDone(bool ok) override {
    unread_ = nullptr;
    if (!ok) return End(CancelReason(*context_));
    std::string part = file_->Next(kPartBytes);
    if (part.empty()) return End(absl::OkStatus());
    v1::ExportResponse response;
    response.set_data(std::move(part));
    const absl::Status status = SerializeMessage(response, &part_);
    if (!status.ok()) return End(status);
    AwaitReading();
    StartWrite(&part_);
  }

  // A client that does not read the next part in time loses the call.
  void AwaitReading() {
    // One for each part: what was cancelled may still be on its way.
    unread_ = std::make_unique<grpc::Alarm>();
    unread_->Set(absl::ToChronoTime(RealClock()->Now() +
                                    around_.options.slow_reader_timeout),
                 [weak = weak_from_this()](bool expired) {
                   if (!expired) return;
                   if (const auto call = weak.lock()) call->EndIfUnread();
                 });
  }

  void EndIfUnread() {
    absl::MutexLock lock(&mutex_);
    // After OnDone there is no context any more.
    if (self_ != nullptr) context_->TryCancel();
  }

  void OnCancel() override { work_.Cancel(CancelReason(*context_)); }

  void End(const absl::Status& status) {
    around_.models.ReportAnswer(caller_, kMethod,
                                /*model=*/"", Shortened(id_), status);
    Finish(ToGrpc(status, context_));
  }

  void OnDone() override {
    unread_ = nullptr;
    std::shared_ptr<ExportCall> self;  // goes after the lock
    absl::MutexLock lock(&mutex_);
    self = std::move(self_);
  }

  const CallSurroundings& around_;
  grpc::CallbackServerContext* const context_;
  const Caller caller_;
  std::string id_;
  ServedModel* model_ = nullptr;
  ReplyReservation room_;
  RequestWork work_;
  std::unique_ptr<StateFileWriter> file_;
  grpc::ByteBuffer part_;
  std::unique_ptr<grpc::Alarm> unread_;  // of the part that is on its way

  absl::Mutex mutex_;
  std::shared_ptr<ExportCall> self_ ABSL_GUARDED_BY(mutex_);  // until OnDone
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartExportCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context,
    const grpc::ByteBuffer* message) {
  return ExportCall::Start(around, context, message);
}

}  // namespace engram

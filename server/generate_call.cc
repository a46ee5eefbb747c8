#include "server/generate_call.h"

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/status.h"
#include "server/admit_call.h"
#include "server/call_feed.h"
#include "server/wire.h"
#include "server/wire_message.h"

namespace engram {
namespace {

class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(
      const CallSurroundings& around, grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* message) {
    return StartAdmitted<grpc::ServerWriteReactor<grpc::ByteBuffer>>(
        around, context, "Generate", [&](Caller caller) {
          auto call = std::make_shared<GenerateCall>(around, context,
                                                     std::move(caller));
          call->self_ = call;
          const grpc::ByteBuffer bytes = TakeBytes(message);
          call->work_.Start(context->peer(), bytes.Length(),
                            [call, bytes](const absl::Status& status) {
                              call->Run(status, bytes);
                            });
          return call.get();
        });
  }

  GenerateCall(const CallSurroundings& around,
               grpc::CallbackServerContext* context, Caller caller)
      : around_(around),
        context_(context),
        caller_(std::move(caller)),
        work_(&around.threads) {}

 private:
  void Run(absl::Status status, const grpc::ByteBuffer& bytes) {
    v1::GenerateRequest message;
    if (status.ok()) status = ParseMessage(bytes, &message);
    if (!status.ok()) {
      ReportRefusal(around_, *context_, caller_, "Generate", message, status);
      return Finish(ToGrpc(status, context_));
    }
    auto submitted = SubmitMessage(
        around_, *context_, caller_, message, "Generate",
        [this] { return work_.MayGoOn(); },
        [](const Request&) { return absl::OkStatus(); });
    if (!submitted.ok()) return Finish(ToGrpc(submitted.status(), context_));
    const std::shared_ptr<TurnFeed> feed = *std::move(submitted);
    feed->SetReady([weak = weak_from_this()] {
      if (auto call = weak.lock()) call->Pump();
    });
    feed_.Set(feed);
    // Debian's gRPC hangs if a stream's first write is buffered: the initial
    // metadata go first, by themselves.
    StartSendInitialMetadata();
  }

  void OnSendInitialMetadataDone(bool ok) override { OnWriteDone(ok); }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
    }
    if (!ok) feed_.Abandon(CancelReason(*context_));
    Pump();
  }

  void OnCancel() override {
    const absl::Status reason = CancelReason(*context_);
    work_.Cancel(reason);
    feed_.Abandon(reason);
  }

  void OnDone() override { self_.reset(); }

  enum class Next { kNothing, kWrite, kFinish };

  // Moves the next event to the wire, unless one is on its way.
  void Pump() {
    const auto keep = shared_from_this();
    absl::Status status;
    switch (TakeNext(&status)) {
      case Next::kNothing:
        return;
      case Next::kWrite:
        return StartWrite(&response_);
      case Next::kFinish:
        return Finish(ToGrpc(status, context_));
    }
  }

  Next TakeNext(absl::Status* status) {
    absl::MutexLock lock(&mutex_);
    if (writing_ || finished_) return Next::kNothing;
    Event event;
    const TurnFeed::State state = feed_.Pop(&event, status);
    if (state == TurnFeed::State::kEmpty) return Next::kNothing;
    if (state == TurnFeed::State::kEnd) {
      finished_ = true;
      return Next::kFinish;
    }
    *status = SerializeMessage(
        ToResponse<v1::GenerateResponse>(std::move(event)), &response_);
    if (!status->ok()) {
      finished_ = true;
      return Next::kFinish;
    }
    writing_ = true;
    return Next::kWrite;
  }

  const CallSurroundings& around_;
  grpc::CallbackServerContext* const context_;
  const Caller caller_;
  std::shared_ptr<GenerateCall> self_;  // until OnDone
  RequestWork work_;
  CallFeed feed_;  // set before anything is sent

  absl::Mutex mutex_;
  // The write in flight reads this; nobody else touches it meanwhile.
  grpc::ByteBuffer response_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = true;  // the initial metadata
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGenerateCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context,
    const grpc::ByteBuffer* message) {
  return GenerateCall::Start(around, context, message);
}

}  // namespace engram

#include "server/generate_call.h"

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/status.h"
#include "server/wire.h"

namespace engram {
namespace {

class GenerateCall final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // `message` lives as long as the call.
  static grpc::ServerWriteReactor<v1::GenerateResponse>* Start(
      const CallSurroundings& around, grpc::CallbackServerContext* context,
      const v1::GenerateRequest* message) {
    auto call = std::make_shared<GenerateCall>(context);
    call->self_ = call;
    const absl::Status taken =
        around.texts.Run(message->text().size(), [call, &around, message] {
          call->Run(
              SubmitMessage(around, *call->context_, *message, "Generate"));
        });
    if (!taken.ok()) call->Finish(ToGrpc(taken));
    return call.get();
  }

  explicit GenerateCall(grpc::CallbackServerContext* context)
      : context_(context), feed_(context) {}

 private:
  void Run(absl::StatusOr<std::unique_ptr<TurnFeed>> submitted) {
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
    if (!ok) feed_.Cancel();
    Pump();
  }

  void OnCancel() override { feed_.Cancel(); }

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
    response_ = ToResponse<v1::GenerateResponse>(std::move(event));
    writing_ = true;
    return Next::kWrite;
  }

  grpc::CallbackServerContext* const context_;
  std::shared_ptr<GenerateCall> self_;  // until OnDone
  CallFeed feed_;                       // set before anything is sent

  absl::Mutex mutex_;
  // The write in flight reads this; nobody else touches it meanwhile.
  v1::GenerateResponse response_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = true;  // the initial metadata
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerateCall(
    const CallSurroundings& around, grpc::CallbackServerContext* context,
    const v1::GenerateRequest* message) {
  return GenerateCall::Start(around, context, message);
}

}  // namespace engram

#include "server/score_call.h"

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/status.h"
#include "server/wire.h"

namespace engram {
namespace {

class ScoreCall final : public grpc::ServerUnaryReactor,
                        public std::enable_shared_from_this<ScoreCall> {
 public:
  // `message` and `response` live as long as the call.
  static grpc::ServerUnaryReactor* Start(const CallSurroundings& around,
                                         grpc::CallbackServerContext* context,
                                         const v1::ScoreRequest* message,
                                         v1::ScoreResponse* response) {
    auto call = std::make_shared<ScoreCall>(context, response);
    call->self_ = call;
    const absl::Status taken =
        around.texts.Run(message->text().size(), [call, &around, message] {
          call->Run(SubmitMessage(around, *call->context_, *message));
        });
    if (!taken.ok()) call->Finish(ToGrpc(taken));
    return call.get();
  }

  ScoreCall(grpc::CallbackServerContext* context, v1::ScoreResponse* response)
      : context_(context), response_(response), feed_(context) {}

 private:
  void Run(absl::StatusOr<std::unique_ptr<TurnFeed>> submitted) {
    if (!submitted.ok()) return Finish(ToGrpc(submitted.status(), context_));
    const std::shared_ptr<TurnFeed> feed = *std::move(submitted);
    feed->SetReady([weak = weak_from_this()] {
      if (auto call = weak.lock()) call->Pump();
    });
    feed_.Set(feed);
    Pump();
  }

  void OnCancel() override { feed_.Cancel(); }

  void OnDone() override { self_.reset(); }

  void Pump() {
    const auto keep = shared_from_this();
    absl::Status status;
    {
      absl::MutexLock lock(&mutex_);
      if (finished_) return;
      Event event;
      auto state = feed_.Pop(&event, &status);
      for (; state == TurnFeed::State::kEvent;
           state = feed_.Pop(&event, &status)) {
        Add(std::move(event));
      }
      if (state == TurnFeed::State::kEmpty) return;
      finished_ = true;
    }
    Finish(ToGrpc(status, context_));
  }

  void Add(Event event) {
    if (auto* started = std::get_if<StartedEvent>(&event)) {
      response_->set_position(started->position);
    } else if (auto* token = std::get_if<TokenEvent>(&event)) {
      *response_->add_tokens() = ToMessage(std::move(*token));
    } else {
      const auto& completed = std::get<CompletedEvent>(event);
      // What was held back belongs to the last token: no text is lost.
      v1::Token* last =
          response_->mutable_tokens(response_->tokens_size() - 1);
      last->set_text(last->text() + completed.text);
      *response_->mutable_usage() = ToMessage(completed.usage);
      *response_->mutable_timing() = ToMessage(completed.timing);
    }
  }

  grpc::CallbackServerContext* const context_;
  v1::ScoreResponse* const response_;
  std::shared_ptr<ScoreCall> self_;  // until OnDone
  CallFeed feed_;

  absl::Mutex mutex_;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerUnaryReactor* StartScoreCall(const CallSurroundings& around,
                                         grpc::CallbackServerContext* context,
                                         const v1::ScoreRequest* message,
                                         v1::ScoreResponse* response) {
  return ScoreCall::Start(around, context, message, response);
}

}  // namespace engram

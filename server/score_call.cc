#include "server/score_call.h"

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "engram/v1/generation.pb.h"
#include "kernels/status.h"
#include "server/admit_call.h"
#include "server/call_feed.h"
#include "server/unary_call.h"
#include "server/wire.h"

namespace engram {
namespace {

// What an answer takes while it is gathered, per token and per alternative: the
// messages, and texts of usual length.
constexpr int64_t kTokenBytes = 200;
constexpr int64_t kAlternativeBytes = 80;

class ScoreCall final : public UnaryCallBase,
                        public std::enable_shared_from_this<ScoreCall> {
 public:
  ScoreCall(const CallSurroundings& around,
            grpc::CallbackServerContext* context, Caller caller,
            const grpc::ByteBuffer* message, grpc::ByteBuffer* reply)
      : UnaryCallBase(around, context, std::move(caller), message, reply,
                      "Score") {}

 private:
  void Run(const grpc::ByteBuffer& bytes) override {
    v1::ScoreRequest message;
    const absl::Status status = ParseMessage(bytes, &message);
    if (!status.ok()) return Answer(status, nullptr);
    auto submitted = SubmitMessage(
        around(), context(), caller(), message, [this] { return MayGoOn(); },
        [this](const Request& request) { return ReserveFor(request); });
    if (!submitted.ok()) {
      return Answer(submitted.status(), nullptr, /*reported=*/true);
    }
    const std::shared_ptr<TurnFeed> feed = *std::move(submitted);
    feed->SetReady([weak = weak_from_this()] {
      if (auto call = weak.lock()) call->Pump();
    });
    feed_.Set(feed);
    Pump();
  }

  absl::Status ReserveFor(const Request& request) {
    const auto tokens = static_cast<int64_t>(request.prompt.size());
    const int64_t alternatives = tokens * request.logprobs;
    const int64_t most = around().options.max_score_alternatives;
    if (alternatives > most) {
      return absl::InvalidArgumentError(absl::StrCat(
          tokens, " tokens with ", request.logprobs, " alternatives each are ",
          alternatives, " in all, limit ", most,
          " (--max-score-alternatives); score the text in parts on a session"));
    }
    return Reserve(tokens * kTokenBytes + alternatives * kAlternativeBytes);
  }

  void OnGone(const absl::Status& reason) override { feed_.Abandon(reason); }

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
    Answer(std::move(status), &response_, /*reported=*/true);
  }

  void Add(Event event) {
    if (auto* started = std::get_if<StartedEvent>(&event)) {
      response_.set_position(started->position);
    } else if (auto* token = std::get_if<TokenEvent>(&event)) {
      *response_.add_tokens() = ToMessage(std::move(*token));
    } else {
      const auto& completed = std::get<CompletedEvent>(event);
      // What was held back belongs to the last token: no text is lost.
      v1::Token* last = response_.mutable_tokens(response_.tokens_size() - 1);
      last->set_text(last->text() + completed.text);
      *response_.mutable_usage() = ToMessage(completed.usage);
      *response_.mutable_timing() = ToMessage(completed.timing);
    }
  }

  CallFeed feed_;

  absl::Mutex mutex_;
  v1::ScoreResponse response_;  // Pump alone has it, one after the other
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerUnaryReactor* StartScoreCall(const CallSurroundings& around,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* message,
                                         grpc::ByteBuffer* reply) {
  return StartAdmitted<grpc::ServerUnaryReactor>(
      around, context, "Score", [&](Caller caller) {
        auto call = std::make_shared<ScoreCall>(
            around, context, std::move(caller), message, reply);
        call->Start(call);
        return call.get();
      });
}

}  // namespace engram

// engram.v1.Generation: one call object per RPC, which moves events from its
// TurnFeed to the wire as fast as the client takes them.
//
// A call object owns itself until gRPC is done with it, and whoever calls back
// into it later (the engine, for one) holds it only weakly.

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "engram/v1/generation.grpc.pb.h"
#include "kernels/status.h"
#include "server/log.h"
#include "server/service.h"
#include "server/turn_feed.h"
#include "server/wire.h"

namespace engram {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return absl::InfiniteFuture();
  }
  return absl::FromChrono(deadline);
}

// Why gRPC cancelled a call: it does so too when the deadline passes.
absl::Status CancelReason(const grpc::CallbackServerContext& context) {
  // A client counts from when it sent the call and we from when it came: its
  // cancellation at the deadline arrives a little before ours.
  constexpr auto kEarly = std::chrono::milliseconds(100);
  if (context.deadline() - std::chrono::system_clock::now() <= kEarly) {
    return absl::DeadlineExceededError("the deadline passed");
  }
  return absl::CancelledError("the client cancelled or went away");
}

RequestSummary Refusal(const v1::GenerateRequest& message,
                       const absl::Status& status) {
  RequestSummary summary;
  summary.handling = RequestHandling::kRefused;
  summary.kind = RequestKindName(RequestKind::kGenerate);
  summary.session_id = message.session_id();
  summary.request_id = message.request_id();
  summary.status = status;
  return summary;
}

RequestSummary Refusal(const v1::ScoreRequest& message,
                       const absl::Status& status) {
  RequestSummary summary;
  summary.handling = RequestHandling::kRefused;
  summary.kind = RequestKindName(RequestKind::kScore);
  summary.session_id = message.session_id();
  summary.status = status;
  return summary;
}

// What all calls of the service share.
struct Surroundings {
  const ServedModels& models;
  const ServerOptions& options;
  TextThreads& texts;
};

template <typename Message>
absl::StatusOr<std::unique_ptr<TurnFeed>> SubmitMessage(
    const Surroundings& around, const grpc::CallbackServerContext& context,
    const Message& message) {
  const absl::StatusOr<ServedModel*> model =
      around.models.Find(message.model(), message.session_id());
  if (!model.ok()) {
    const RequestSummary refusal = Refusal(message, model.status());
    if (around.options.request_log) Log("request", DescribeRequest(refusal));
    return model.status();
  }
  absl::StatusOr<Request> request = ToRequest(message, **model, around.options);
  if (!request.ok()) {
    RequestSummary refusal = Refusal(message, request.status());
    refusal.model = (*model)->name;
    (*model)->on_end(refusal);
    return request.status();
  }
  request->deadline = DeadlineOf(context);
  return TurnFeed::Submit(*model, *std::move(request));
}

// The feed of a call that has one: there is none until its text is tokenised,
// and the client may go away before. Thread-safe.
class CallFeed {
 public:
  explicit CallFeed(const grpc::CallbackServerContext* context)
      : context_(context) {}

  // Once. Cancels the feed if the client has gone meanwhile.
  void Set(std::shared_ptr<TurnFeed> feed) {
    {
      absl::MutexLock lock(&mutex_);
      feed_ = feed;
      if (!client_gone_) return;
    }
    feed->Cancel(CancelReason(*context_));
  }

  // The client cancelled or went away.
  void Cancel() {
    std::shared_ptr<TurnFeed> feed;
    {
      absl::MutexLock lock(&mutex_);
      client_gone_ = true;
      feed = feed_;
    }
    if (feed != nullptr) feed->Cancel(CancelReason(*context_));
  }

  // As TurnFeed::Pop, but passes over events that nobody is there to read: what
  // is still awaited is the end. REQUIRES: Set.
  TurnFeed::State Pop(Event* event, absl::Status* status) {
    std::shared_ptr<TurnFeed> feed;
    bool skip = false;
    {
      absl::MutexLock lock(&mutex_);
      feed = feed_;
      skip = client_gone_;
    }
    auto state = feed->Pop(event, status);
    while (skip && state == TurnFeed::State::kEvent) {
      state = feed->Pop(event, status);
    }
    return state;
  }

 private:
  const grpc::CallbackServerContext* const context_;
  absl::Mutex mutex_;
  std::shared_ptr<TurnFeed> feed_ ABSL_GUARDED_BY(mutex_);
  bool client_gone_ ABSL_GUARDED_BY(mutex_) = false;
};

// --- Generate.

class GenerateCall final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // `message` lives as long as the call.
  static grpc::ServerWriteReactor<v1::GenerateResponse>* Start(
      const Surroundings& around, grpc::CallbackServerContext* context,
      const v1::GenerateRequest* message) {
    auto call = std::make_shared<GenerateCall>(context);
    call->self_ = call;
    const absl::Status taken =
        around.texts.Run(message->text().size(), [call, &around, message] {
          call->Run(SubmitMessage(around, *call->context_, *message));
        });
    if (!taken.ok()) call->Finish(ToGrpc(taken));
    return call.get();
  }

  explicit GenerateCall(grpc::CallbackServerContext* context)
      : context_(context), feed_(context) {}

 private:
  void Run(absl::StatusOr<std::unique_ptr<TurnFeed>> submitted) {
    if (!submitted.ok()) return Finish(ToGrpc(submitted.status()));
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
        return Finish(ToGrpc(status));
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

// --- Converse.

// Messages are decoded here and not by gRPC, for which one that cannot be
// decoded looks like the end of the stream.
class ConverseCall final
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
      public std::enable_shared_from_this<ConverseCall> {
 public:
  static grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Start(
      const Surroundings& around, grpc::CallbackServerContext* context) {
    auto call = std::make_shared<ConverseCall>(around, context);
    call->self_ = call;
    call->Run();
    return call.get();
  }

  ConverseCall(const Surroundings& around, grpc::CallbackServerContext* context)
      : around_(around), context_(context) {}

 private:
  void Run() {
    StartSendInitialMetadata();
    StartRead(&incoming_);
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

  void OnDone() override { self_.reset(); }

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
        return Finish(ToGrpc(status));
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
        SubmitMessage(around_, *context_, *message));
    feed->SetReady([weak = weak_from_this()] {
      if (auto call = weak.lock()) call->Pump();
    });
    return std::shared_ptr<TurnFeed>(std::move(feed));
  }

  const Surroundings& around_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<ConverseCall> self_;  // until OnDone

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
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

// --- Score.

class ScoreCall final : public grpc::ServerUnaryReactor,
                        public std::enable_shared_from_this<ScoreCall> {
 public:
  // `message` and `response` live as long as the call.
  static grpc::ServerUnaryReactor* Start(const Surroundings& around,
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
    if (!submitted.ok()) return Finish(ToGrpc(submitted.status()));
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
    Finish(ToGrpc(status));
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

using Methods = v1::Generation::WithCallbackMethod_Generate<
    v1::Generation::WithRawCallbackMethod_Converse<
        v1::Generation::WithCallbackMethod_Score<v1::Generation::Service>>>;

class GenerationService final : public Methods {
 public:
  GenerationService(const ServedModels* models, const ServerOptions* options,
                    TextThreads* texts)
      : around_{*models, *options, *texts} {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context,
      const v1::GenerateRequest* request) override {
    return GenerateCall::Start(around_, context, request);
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Converse(
      grpc::CallbackServerContext* context) override {
    return ConverseCall::Start(around_, context);
  }

  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override {
    return ScoreCall::Start(around_, context, request, response);
  }

 private:
  const Surroundings around_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeGenerationService(
    const ServedModels* models, const ServerOptions* options,
    TextThreads* texts) {
  return std::make_unique<GenerationService>(models, options, texts);
}

}  // namespace engram

#include "clients/cpp/client.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "clients/cpp/backoff.h"
#include "clients/cpp/call_end.h"
#include "clients/cpp/channel.h"
#include "clients/cpp/resumable_turn.h"
#include "clients/cpp/server_address.h"
#include "clients/cpp/tls_mismatch.h"
#include "clients/cpp/utf8.h"
#include "engram/v1/generation.grpc.pb.h"
#include "engram/v1/inspection.grpc.pb.h"
#include "engram/v1/models.grpc.pb.h"
#include "engram/v1/sessions.grpc.pb.h"
#include "tools/shell/environment.h"
#include "tools/status/early_return.h"
#include "tools/status/retry_after.h"

namespace engram::client {
namespace {

// A gRPC call that a Cancellation ends, for as long as this object lives.
class CancellableContext {
 public:
  CancellableContext(Cancellation* cancellation, absl::Time deadline,
                     const std::string& session_id)
      : cancellation_(cancellation) {
    TellSession(session_id, &context_);
    if (deadline != absl::InfiniteFuture()) {
      context_.set_deadline(absl::ToChronoTime(deadline));
    }
    if (cancellation_ != nullptr) {
      registration_ = cancellation_->Register([this] { context_.TryCancel(); });
    }
  }
  ~CancellableContext() {
    if (cancellation_ != nullptr) cancellation_->Unregister(registration_);
  }
  CancellableContext(const CancellableContext&) = delete;
  CancellableContext& operator=(const CancellableContext&) = delete;

  grpc::ClientContext* get() { return &context_; }

 private:
  grpc::ClientContext context_;
  Cancellation* const cancellation_;
  int64_t registration_ = 0;
};

// What a proxy is to route a call by.
template <typename Request>
const std::string& RouteOf(const Request& request) {
  return request.session_id().empty() ? request.from_checkpoint()
                                      : request.session_id();
}

// Until there are no more, or the call has ended. Errors: those of `next`.
absl::Status WriteParts(absl::FunctionRef<absl::StatusOr<std::string>()> next,
                        grpc::ClientWriter<v1::ImportRequest>* stream) {
  while (true) {
    ENGRAM_ASSIGN_OR_RETURN(std::string part, next());
    if (part.empty()) break;
    v1::ImportRequest request;
    request.set_data(std::move(part));
    if (!stream->Write(request)) return absl::OkStatus();
  }
  stream->WritesDone();
  return absl::OkStatus();
}

}  // namespace

std::string DefaultServer() {
  const std::string server = EnvironmentVariable(kServerVariable);
  if (server.empty()) return "localhost:8001";
  return ParseServerAddress(server).value_or(server);
}

struct Client::Stubs {
  Stubs(const absl::StatusOr<std::string>& address,
        const ClientOptions& options)
      : opened(Open(address, options)) {
    if (!opened.ok()) return;  // Then nothing is asked.
    generation = v1::Generation::NewStub(*opened);
    sessions = v1::Sessions::NewStub(*opened);
    inspection = v1::Inspection::NewStub(*opened);
    models = v1::Models::NewStub(*opened);
  }

  static absl::StatusOr<std::shared_ptr<grpc::Channel>> Open(
      const absl::StatusOr<std::string>& address,
      const ClientOptions& options) {
    if (address.ok()) return OpenChannel(*address, options.tls, options.caller);
    return absl::InvalidArgumentError(
        absl::StrCat("server ", address.status().message()));
  }

  const absl::StatusOr<std::shared_ptr<grpc::Channel>> opened;
  std::unique_ptr<v1::Generation::Stub> generation;
  std::unique_ptr<v1::Sessions::Stub> sessions;
  std::unique_ptr<v1::Inspection::Stub> inspection;
  std::unique_ptr<v1::Models::Stub> models;
};

// One call of the user's with all its repeats: when it must be over, and the
// waits in between.
class Client::Call {
 public:
  Call(const ClientOptions& client, grpc::Channel* channel,
       const CallOptions& options)
      : client_(client),
        channel_(channel),
        cancellation_(options.cancellation),
        deadline_(absl::Now() + options.deadline) {}

  absl::Time deadline() const { return deadline_; }
  Cancellation* cancellation() const { return cancellation_; }

  // Waits before the repeat of what ended with `why`. Errors: CANCELLED;
  // DEADLINE_EXCEEDED without waiting if the wait would end after the deadline.
  absl::Status Wait(const absl::Status& why, bool made_progress) {
    if (made_progress) backoff_.Reset();
    const absl::Duration wait =
        backoff_.Next(RetryAfter(why).value_or(absl::ZeroDuration()));
    if (absl::Now() + wait >= deadline_) {
      return WithEndOf(
          why, absl::DeadlineExceededError(absl::StrCat(
                   "the deadline passes before the call can be repeated; it "
                   "failed with ",
                   absl::StatusCodeToString(why.code()), ": ", why.message())));
    }
    if (client_.on_repeat) client_.on_repeat(why, wait);
    if (client_.wait_for_test) {
      client_.wait_for_test(wait);
    } else {
      WaitConnecting(absl::Now() + wait);
    }
    return cancelled() ? absl::CancelledError("cancelled") : absl::OkStatus();
  }

 private:
  bool cancelled() const {
    return cancellation_ != nullptr && cancellation_->cancelled();
  }

  // Waits until `end` or until cancelled. gRPC connects only while one of our
  // threads waits inside of it: after a mere sleep, the next attempt would find
  // the connection as broken as before.
  void WaitConnecting(absl::Time end) {
    constexpr absl::Duration kSlice = absl::Milliseconds(50);
    while (absl::Now() < end && !cancelled()) {
      const absl::Time slice_end = std::min(end, absl::Now() + kSlice);
      if (channel_->WaitForConnected(absl::ToChronoTime(slice_end))) {
        absl::SleepFor(slice_end - absl::Now());
      }
    }
  }

  const ClientOptions& client_;
  grpc::Channel* const channel_;
  Cancellation* const cancellation_;
  const absl::Time deadline_;
  Backoff backoff_;
};

Client::Client(ClientOptions options)
    : options_(std::move(options)),
      address_(ParseServerAddress(options_.server)),
      stubs_(std::make_unique<Stubs>(address_, options_)) {}

Client::~Client() = default;

absl::Status Client::Check(const google::protobuf::Message& request) const {
  ENGRAM_RETURN_IF_ERROR(stubs_->opened.status());
  return CheckStrings(request);
}

absl::Status Client::Generate(
    const v1::GenerateRequest& request,
    absl::FunctionRef<void(const v1::GenerateResponse&)> on_response,
    const CallOptions& options) {
  ENGRAM_RETURN_IF_ERROR(Check(request));
  Call call(options_, stubs_->opened->get(), options);
  ResumableTurn turn(request, options_.retries);
  // One stream: returns its end, or what Receive() found wrong with it.
  const auto run_stream = [&]() -> absl::Status {
    CancellableContext context(call.cancellation(), call.deadline(),
                               RouteOf(request));
    auto stream =
        stubs_->generation->Generate(context.get(), turn.StartStream());
    v1::GenerateResponse response;
    absl::Status status;
    while (status.ok() && stream->Read(&response)) {
      bool fresh = false;
      status = turn.Receive(response, &fresh);
      if (fresh) on_response(response);
    }
    if (!status.ok()) context.get()->TryCancel();
    const absl::Status end = ToStatus(stream->Finish(), *context.get());
    return status.ok() ? end : status;
  };

  // TLS keeps all attempts from the server, or none.
  for (bool first = true;; first = false) {
    absl::Status status = run_stream();
    if (first) status = ExplainByTls(status, *address_, options_.tls);
    switch (turn.StreamEnded(status)) {
      case ResumableTurn::Next::kDone:
        return absl::OkStatus();
      case ResumableTurn::Next::kFail:
        return turn.result();
      case ResumableTurn::Next::kRepeat:
        break;
    }
    ENGRAM_RETURN_IF_ERROR(call.Wait(turn.result(), turn.made_progress()));
  }
}

template <typename Response, typename Request, typename Attempt>
absl::StatusOr<Response> Client::Unary(const Request& request,
                                       const std::string& session_id,
                                       const CallOptions& options, int retries,
                                       Attempt attempt) {
  ENGRAM_RETURN_IF_ERROR(Check(request));
  Call call(options_, stubs_->opened->get(), options);
  for (int repeats = 0;; ++repeats) {
    Response response;
    CancellableContext context(call.cancellation(), call.deadline(),
                               session_id);
    const grpc::Status end = attempt(context.get(), &response);
    absl::Status status = ToStatus(end, *context.get());
    if (repeats == 0) status = ExplainByTls(status, *address_, options_.tls);
    if (status.ok()) return response;
    if (!IsTransportFailure(status) || repeats >= retries) return status;
    ENGRAM_RETURN_IF_ERROR(call.Wait(status, /*made_progress=*/false));
  }
}

absl::StatusOr<v1::ScoreResponse> Client::Score(const v1::ScoreRequest& request,
                                                const CallOptions& options) {
  return Unary<v1::ScoreResponse>(
      request, RouteOf(request), options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->generation->Score(context, request, response);
      });
}

absl::StatusOr<v1::DescribeResponse> Client::Describe(
    const v1::DescribeRequest& request, const CallOptions& options) {
  return Unary<v1::DescribeResponse>(
      request, request.session_id(), options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->inspection->Describe(context, request, response);
      });
}

absl::StatusOr<v1::ReadOutResponse> Client::ReadOut(
    const v1::ReadOutRequest& request, const CallOptions& options) {
  return Unary<v1::ReadOutResponse>(
      request, request.session_id(), options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->inspection->ReadOut(context, request, response);
      });
}

absl::StatusOr<v1::AttributeResponse> Client::Attribute(
    const v1::AttributeRequest& request, const CallOptions& options) {
  return Unary<v1::AttributeResponse>(
      request, request.session_id(), options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->inspection->Attribute(context, request, response);
      });
}

absl::StatusOr<v1::AblateResponse> Client::Ablate(
    const v1::AblateRequest& request, const CallOptions& options) {
  return Unary<v1::AblateResponse>(
      request, request.session_id(), options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->inspection->Ablate(context, request, response);
      });
}

// What makes or deletes something is not repeated: the first attempt may have
// been carried out, and the second would then fail and say something untrue.

absl::StatusOr<v1::Session> Client::CreateSession(
    const v1::CreateSessionRequest& given, const CallOptions& options) {
  v1::CreateSessionRequest request = given;
  if (request.session_id().empty()) request.set_session_id(FreshId());
  return Unary<v1::Session>(request, request.session_id(), options,
                            /*retries=*/0, [&](auto* context, auto* response) {
                              return stubs_->sessions->Create(context, request,
                                                              response);
                            });
}

absl::StatusOr<v1::Session> Client::GetSession(
    const v1::GetSessionRequest& request, const CallOptions& options) {
  return Unary<v1::Session>(
      request, request.session_id(), options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->sessions->Get(context, request, response);
      });
}

absl::StatusOr<v1::ListSessionsResponse> Client::ListSessions(
    const v1::ListSessionsRequest& request, const CallOptions& options) {
  return Unary<v1::ListSessionsResponse>(
      request, /*session_id=*/"", options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->sessions->List(context, request, response);
      });
}

absl::StatusOr<v1::DeleteSessionResponse> Client::DeleteSession(
    const v1::DeleteSessionRequest& request, const CallOptions& options) {
  return Unary<v1::DeleteSessionResponse>(
      request, request.session_id(), options, /*retries=*/0,
      [&](auto* context, auto* response) {
        return stubs_->sessions->Delete(context, request, response);
      });
}

absl::StatusOr<v1::Session> Client::ForkSession(
    const v1::ForkSessionRequest& request, const CallOptions& options) {
  return Unary<v1::Session>(
      // A fork is made where the state is that it starts from.
      request, RouteOf(request), options, /*retries=*/0,
      [&](auto* context, auto* response) {
        return stubs_->sessions->Fork(context, request, response);
      });
}

absl::StatusOr<v1::CheckpointInfo> Client::CreateCheckpoint(
    const v1::CheckpointSessionRequest& request, const CallOptions& options) {
  return Unary<v1::CheckpointInfo>(
      request, request.session_id(), options, /*retries=*/0,
      [&](auto* context, auto* response) {
        return stubs_->sessions->Checkpoint(context, request, response);
      });
}

absl::StatusOr<v1::ListCheckpointsResponse> Client::ListCheckpoints(
    const v1::ListCheckpointsRequest& request, const CallOptions& options) {
  return Unary<v1::ListCheckpointsResponse>(
      request, /*session_id=*/"", options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->sessions->ListCheckpoints(context, request, response);
      });
}

absl::StatusOr<v1::DeleteCheckpointResponse> Client::DeleteCheckpoint(
    const v1::DeleteCheckpointRequest& request, const CallOptions& options) {
  return Unary<v1::DeleteCheckpointResponse>(
      request, request.checkpoint_id(), options, /*retries=*/0,
      [&](auto* context, auto* response) {
        return stubs_->sessions->DeleteCheckpoint(context, request, response);
      });
}

absl::Status Client::Export(
    const v1::ExportRequest& request,
    absl::FunctionRef<absl::Status(absl::string_view)> on_data,
    const CallOptions& options) {
  ENGRAM_RETURN_IF_ERROR(Check(request));
  Call call(options_, stubs_->opened->get(), options);
  bool has_begun = false;
  for (int repeats = 0;; ++repeats) {
    CancellableContext context(call.cancellation(), call.deadline(),
                               request.has_checkpoint_id()
                                   ? request.checkpoint_id()
                                   : request.session_id());
    auto stream = stubs_->sessions->Export(context.get(), request);
    v1::ExportResponse response;
    absl::Status taken;
    while (taken.ok() && stream->Read(&response)) {
      has_begun = true;
      taken = on_data(response.data());
    }
    if (!taken.ok()) context.get()->TryCancel();
    absl::Status status = ToStatus(stream->Finish(), *context.get());
    if (!taken.ok()) return taken;
    if (repeats == 0) status = ExplainByTls(status, *address_, options_.tls);
    if (status.ok() || has_begun || !IsTransportFailure(status) ||
        repeats >= options_.retries) {
      return status;
    }
    ENGRAM_RETURN_IF_ERROR(call.Wait(status, /*made_progress=*/false));
  }
}

absl::StatusOr<v1::ImportResponse> Client::Import(
    const v1::ImportHeader& header,
    absl::FunctionRef<absl::StatusOr<std::string>()> next,
    const CallOptions& options) {
  ENGRAM_RETURN_IF_ERROR(Check(header));
  Call call(options_, stubs_->opened->get(), options);
  for (int repeats = 0;; ++repeats) {
    CancellableContext context(call.cancellation(), call.deadline(),
                               header.has_checkpoint_id()
                                   ? header.checkpoint_id()
                                   : header.session_id());
    v1::ImportResponse response;
    auto stream = stubs_->sessions->Import(context.get(), &response);
    v1::ImportRequest first;
    *first.mutable_header() = header;
    // False: the call has ended, and Finish() says why.
    const bool has_begun = stream->Write(first);
    const absl::Status given =
        has_begun ? WriteParts(next, stream.get()) : absl::OkStatus();
    if (!given.ok()) context.get()->TryCancel();
    absl::Status status = ToStatus(stream->Finish(), *context.get());
    if (!given.ok()) return given;
    if (status.ok()) return response;
    if (repeats == 0) status = ExplainByTls(status, *address_, options_.tls);
    if (has_begun || !IsTransportFailure(status) ||
        repeats >= options_.retries) {
      return status;
    }
    ENGRAM_RETURN_IF_ERROR(call.Wait(status, /*made_progress=*/false));
  }
}

absl::StatusOr<v1::ListModelsResponse> Client::ListModels(
    const CallOptions& options) {
  const v1::ListModelsRequest request;
  return Unary<v1::ListModelsResponse>(
      request, /*session_id=*/"", options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->models->List(context, request, response);
      });
}

absl::StatusOr<v1::ModelInfo> Client::GetModel(
    const v1::GetModelRequest& request, const CallOptions& options) {
  return Unary<v1::ModelInfo>(
      request, /*session_id=*/"", options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->models->Get(context, request, response);
      });
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(
    const v1::TokenizeRequest& request, const CallOptions& options) {
  return Unary<v1::TokenizeResponse>(
      request, /*session_id=*/"", options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->models->Tokenize(context, request, response);
      });
}

absl::StatusOr<v1::DetokenizeResponse> Client::Detokenize(
    const v1::DetokenizeRequest& request, const CallOptions& options) {
  return Unary<v1::DetokenizeResponse>(
      request, /*session_id=*/"", options, options_.retries,
      [&](auto* context, auto* response) {
        return stubs_->models->Detokenize(context, request, response);
      });
}

absl::StatusOr<int64_t> Client::SessionVersion(const std::string& session_id,
                                               const CallOptions& options) {
  v1::GetSessionRequest request;
  request.set_session_id(session_id);
  absl::StatusOr<v1::Session> session = GetSession(request, options);
  if (session.ok()) return session->version();
  // A session that was forgotten is NOT_FOUND too; the turn that expects
  // version 0 of it is then refused with the server's explanation.
  if (absl::IsNotFound(session.status())) return 0;
  return session.status();
}

}  // namespace engram::client

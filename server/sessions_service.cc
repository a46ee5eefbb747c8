// engram.v1.Sessions. A fork whose state the engine must copy is answered from
// its thread.

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engram/v1/sessions.grpc.pb.h"
#include "kernels/status.h"
#include "server/request_id.h"
#include "server/service.h"
#include "server/unary_call.h"
#include "server/wire.h"

namespace engram {
namespace {

// A page ends early when its sessions' labels come to so much: one message is
// not to take a thread, or a client's limit, by surprise.
constexpr size_t kPageBytes = 1 << 20;

// A new id with the group of `source`, so that a proxy that routes by groups
// finds the fork where it is made.
std::string IdOfFork(const std::string& source) {
  const std::string group = source.substr(0, source.find(':'));
  const std::string id = absl::StrCat(group, ":", RandomId());
  return CheckId("new_session_id", id).ok() ? id : RandomId();
}

using Methods = v1::Sessions::WithRawCallbackMethod_Create<
    v1::Sessions::WithRawCallbackMethod_Get<
        v1::Sessions::WithRawCallbackMethod_List<
            v1::Sessions::WithRawCallbackMethod_Delete<
                v1::Sessions::WithRawCallbackMethod_Fork<
                    v1::Sessions::Service>>>>>;

using CreateCall = UnaryCall<v1::CreateSessionRequest, v1::Session>;
using GetCall = UnaryCall<v1::GetSessionRequest, v1::Session>;
using ListCall = UnaryCall<v1::ListSessionsRequest, v1::ListSessionsResponse>;
using DeleteCall =
    UnaryCall<v1::DeleteSessionRequest, v1::DeleteSessionResponse>;
using ForkCall = UnaryCall<v1::ForkSessionRequest, v1::Session>;

class SessionsService final : public Methods {
 public:
  explicit SessionsService(const CallSurroundings& around)
      : around_(around), models_(around.models), options_(around.options) {}

  grpc::ServerUnaryReactor* Create(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* message,
                                   grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::CreateSessionRequest, v1::Session>(
        around_, context, message, reply, "Sessions.Create",
        [this](const std::shared_ptr<CreateCall>& call) {
          Answer(call.get(), CreateSession(*call));
        });
  }

  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const grpc::ByteBuffer* message,
                                grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::GetSessionRequest, v1::Session>(
        around_, context, message, reply, "Sessions.Get",
        [this](const std::shared_ptr<GetCall>& call) {
          Answer(call.get(), GetSession(*call));
        });
  }

  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* message,
                                 grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::ListSessionsRequest, v1::ListSessionsResponse>(
        around_, context, message, reply, "Sessions.List",
        [this](const std::shared_ptr<ListCall>& call) {
          call->Finish(ListSessions(call.get()));
        });
  }

  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* message,
                                   grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::DeleteSessionRequest, v1::DeleteSessionResponse>(
        around_, context, message, reply, "Sessions.Delete",
        [this](const std::shared_ptr<DeleteCall>& call) {
          const std::string& session_id = call->request().session_id();
          call->SetSubject({"", session_id});
          absl::Status status = CheckSession(call->context(), session_id);
          if (status.ok()) {
            status = sessions().Delete(NameOf(*call, session_id));
          }
          call->Finish(std::move(status));
        });
  }

  grpc::ServerUnaryReactor* Fork(grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* message,
                                 grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::ForkSessionRequest, v1::Session>(
        around_, context, message, reply, "Sessions.Fork",
        [this](const std::shared_ptr<ForkCall>& call) {
          const absl::Status refused = ForkSession(call->request(), call);
          if (!refused.ok()) Answer(call.get(), refused);
        });
  }

 private:
  SessionStore& sessions() const { return *models_.sessions(); }

  // The caller's own session.
  static SessionName NameOf(const UnaryCallBase& call,
                            const std::string& session_id) {
    return SessionName(call.caller().tenant, session_id);
  }

  // Of a session that a call is about.
  static absl::Status CheckSession(const grpc::CallbackServerContext& context,
                                   const std::string& session_id) {
    ENGRAM_RETURN_IF_ERROR(CheckId("session_id", session_id));
    return CheckSessionMetadata(context, session_id);
  }

  template <typename Call>
  static void Answer(Call* call, absl::StatusOr<SessionInfo> session) {
    call->SetSubject({"", call->request().session_id()});
    if (session.ok()) *call->response() = ToMessage(*session);
    call->Finish(session.status());
  }

  absl::StatusOr<SessionInfo> CreateSession(const CreateCall& call) const {
    const v1::CreateSessionRequest& request = call.request();
    ENGRAM_RETURN_IF_ERROR(
        CheckSessionMetadata(call.context(), request.session_id()));
    ENGRAM_ASSIGN_OR_RETURN(ServedModel * model, models_.Find(request.model()));
    ENGRAM_ASSIGN_OR_RETURN(
        NewSession session,
        ToNewSession(request, call.caller().tenant, *model, options_));
    return sessions().Create(std::move(session));
  }

  absl::StatusOr<SessionInfo> GetSession(const GetCall& call) const {
    const std::string& session_id = call.request().session_id();
    ENGRAM_RETURN_IF_ERROR(CheckSession(call.context(), session_id));
    return sessions().Get(NameOf(call, session_id));
  }

  absl::Status ListSessions(ListCall* call) const {
    const v1::ListSessionsRequest& request = call->request();
    v1::ListSessionsResponse* const response = call->response();
    int model = -1;
    if (!request.model().empty()) {
      ENGRAM_ASSIGN_OR_RETURN(ServedModel * found,
                              models_.Find(request.model()));
      model = found->number;
    }
    if (request.page_size() < 0 ||
        request.page_size() > options_.max_page_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("page_size is ", request.page_size(), ", limit 0 to ",
                       options_.max_page_size, " (--max-page-size)"));
    }
    const int64_t page_size =
        request.page_size() > 0
            ? request.page_size()
            : std::min<int64_t>(100, options_.max_page_size);
    // One more, to know whether there is a next page.
    const std::vector<SessionInfo> page = sessions().List(
        call->caller().tenant, model, request.page_token(), page_size + 1);
    size_t bytes = 0;
    for (const SessionInfo& session : page) {
      v1::Session message = ToMessage(session);
      bytes += message.ByteSizeLong();
      if (response->sessions_size() == page_size ||
          (bytes > kPageBytes && response->sessions_size() > 0)) {
        response->set_next_page_token(
            response->sessions(response->sessions_size() - 1).session_id());
        break;
      }
      *response->add_sessions() = std::move(message);
    }
    return absl::OkStatus();
  }

  // Answers the call, unless it is refused at once.
  absl::Status ForkSession(const v1::ForkSessionRequest& request,
                           const std::shared_ptr<ForkCall>& call) const {
    if (!request.from_checkpoint().empty()) {
      return absl::UnimplementedError(
          "from_checkpoint: this server has no checkpoints yet; name a "
          "session_id instead");
    }
    ENGRAM_RETURN_IF_ERROR(CheckSession(call->context(), request.session_id()));
    const std::string new_session_id = request.new_session_id().empty()
                                           ? IdOfFork(request.session_id())
                                           : request.new_session_id();
    ENGRAM_RETURN_IF_ERROR(CheckId("new_session_id", new_session_id));
    const SessionName name = NameOf(*call, request.session_id());
    ENGRAM_ASSIGN_OR_RETURN(const SessionHandle source, sessions().Find(name));
    ENGRAM_ASSIGN_OR_RETURN(const int number, sessions().ModelOf(name));
    // Any of its engines finds the state.
    models_.all()[number]->devices.front().engine->Fork(
        source, new_session_id, [call](absl::StatusOr<SessionInfo> fork) {
          Answer(call.get(), std::move(fork));
        });
    return absl::OkStatus();
  }

  const CallSurroundings& around_;
  const ServedModels& models_;
  const ServerOptions& options_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeSessionsService(
    const CallSurroundings& around) {
  return std::make_unique<SessionsService>(around);
}

}  // namespace engram

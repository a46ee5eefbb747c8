// engram.v1.Sessions. A fork or a checkpoint whose state the engine must copy
// is answered from its thread.

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engram/v1/sessions.grpc.pb.h"
#include "kernels/status.h"
#include "server/export_call.h"
#include "server/import_call.h"
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

using OfSessions = v1::Sessions::WithRawCallbackMethod_Create<
    v1::Sessions::WithRawCallbackMethod_Get<
        v1::Sessions::WithRawCallbackMethod_List<
            v1::Sessions::WithRawCallbackMethod_Delete<
                v1::Sessions::WithRawCallbackMethod_Fork<
                    v1::Sessions::Service>>>>>;
using OfCheckpoints = v1::Sessions::WithRawCallbackMethod_Checkpoint<
    v1::Sessions::WithRawCallbackMethod_ListCheckpoints<
        v1::Sessions::WithRawCallbackMethod_DeleteCheckpoint<OfSessions>>>;
using Methods = v1::Sessions::WithRawCallbackMethod_Export<
    v1::Sessions::WithRawCallbackMethod_Import<OfCheckpoints>>;

using CreateCall = UnaryCall<v1::CreateSessionRequest, v1::Session>;
using GetCall = UnaryCall<v1::GetSessionRequest, v1::Session>;
using ListCall = UnaryCall<v1::ListSessionsRequest, v1::ListSessionsResponse>;
using DeleteCall =
    UnaryCall<v1::DeleteSessionRequest, v1::DeleteSessionResponse>;
using ForkCall = UnaryCall<v1::ForkSessionRequest, v1::Session>;
using CheckpointCall =
    UnaryCall<v1::CheckpointSessionRequest, v1::CheckpointInfo>;
using ListCheckpointsCall =
    UnaryCall<v1::ListCheckpointsRequest, v1::ListCheckpointsResponse>;
using DeleteCheckpointCall =
    UnaryCall<v1::DeleteCheckpointRequest, v1::DeleteCheckpointResponse>;

// Adds those of a list of sessions or of checkpoints that one page has. False:
// there are more.
template <typename Message>
bool AddToPage(const std::vector<SessionInfo>& entries, int64_t page_size,
               Message (*to_message)(const SessionInfo&),
               google::protobuf::RepeatedPtrField<Message>* page) {
  size_t bytes = 0;
  for (const SessionInfo& entry : entries) {
    Message message = to_message(entry);
    bytes += message.ByteSizeLong();
    if (page->size() == page_size || (bytes > kPageBytes && !page->empty())) {
      return false;
    }
    page->Add(std::move(message));
  }
  return true;
}

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

  grpc::ServerUnaryReactor* Checkpoint(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* message,
                                       grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::CheckpointSessionRequest, v1::CheckpointInfo>(
        around_, context, message, reply, "Sessions.Checkpoint",
        [this](const std::shared_ptr<CheckpointCall>& call) {
          const absl::Status refused = MakeCheckpoint(call);
          if (!refused.ok()) AnswerCheckpoint(call.get(), refused);
        });
  }

  grpc::ServerUnaryReactor* ListCheckpoints(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* message,
      grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::ListCheckpointsRequest,
                          v1::ListCheckpointsResponse>(
        around_, context, message, reply, "Sessions.ListCheckpoints",
        [this](const std::shared_ptr<ListCheckpointsCall>& call) {
          call->Finish(ListCheckpointsOf(call.get()));
        });
  }

  grpc::ServerUnaryReactor* DeleteCheckpoint(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* message,
      grpc::ByteBuffer* reply) override {
    return StartUnaryCall<v1::DeleteCheckpointRequest,
                          v1::DeleteCheckpointResponse>(
        around_, context, message, reply, "Sessions.DeleteCheckpoint",
        [this](const std::shared_ptr<DeleteCheckpointCall>& call) {
          const std::string& id = call->request().checkpoint_id();
          absl::Status status = CheckId("checkpoint_id", id);
          if (status.ok()) {
            status = sessions().DeleteCheckpoint(NameOf(*call, id));
          }
          call->Finish(std::move(status));
        });
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Export(
      grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* message) override {
    return StartExportCall(around_, context, message);
  }

  grpc::ServerReadReactor<grpc::ByteBuffer>* Import(
      grpc::CallbackServerContext* context, grpc::ByteBuffer* reply) override {
    return StartImportCall(around_, context, reply);
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
    ENGRAM_ASSIGN_OR_RETURN(
        ServedModel * model,
        models_.Find(request.model(), NameOf(call, ""),
                     NameOf(call, request.from_checkpoint())));
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
    ENGRAM_ASSIGN_OR_RETURN(const Page page, ReadPage(request));
    // One more, to know whether there is a next page.
    const std::vector<SessionInfo> listed = sessions().List(
        call->caller().tenant, page.model, request.page_token(), page.size + 1);
    if (!AddToPage<v1::Session>(listed, page.size, ToMessage,
                                response->mutable_sessions())) {
      response->set_next_page_token(
          response->sessions(response->sessions_size() - 1).session_id());
    }
    return absl::OkStatus();
  }

  absl::Status ListCheckpointsOf(ListCheckpointsCall* call) const {
    const v1::ListCheckpointsRequest& request = call->request();
    v1::ListCheckpointsResponse* const response = call->response();
    ENGRAM_ASSIGN_OR_RETURN(const Page page, ReadPage(request));
    const std::vector<SessionInfo> listed = sessions().ListCheckpoints(
        call->caller().tenant, page.model, request.page_token(), page.size + 1);
    if (!AddToPage<v1::CheckpointInfo>(listed, page.size, ToCheckpointMessage,
                                       response->mutable_checkpoints())) {
      response->set_next_page_token(
          response->checkpoints(response->checkpoints_size() - 1)
              .checkpoint_id());
    }
    return absl::OkStatus();
  }

  struct Page {
    int model = -1;  // by number; -1: of all
    int64_t size = 0;
  };

  // Of a call that lists something.
  template <typename Request>
  absl::StatusOr<Page> ReadPage(const Request& request) const {
    Page page;
    if (!request.model().empty()) {
      ENGRAM_ASSIGN_OR_RETURN(ServedModel * found,
                              models_.Find(request.model()));
      page.model = found->number;
    }
    if (request.page_size() < 0 ||
        request.page_size() > options_.max_page_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("page_size is ", request.page_size(), ", limit 0 to ",
                       options_.max_page_size, " (--max-page-size)"));
    }
    page.size = request.page_size() > 0
                    ? request.page_size()
                    : std::min<int64_t>(100, options_.max_page_size);
    return page;
  }

  // Answers the call, unless it is refused at once.
  absl::Status ForkSession(const v1::ForkSessionRequest& request,
                           const std::shared_ptr<ForkCall>& call) const {
    ENGRAM_ASSIGN_OR_RETURN(const Source source, FindSource(request, *call));
    const std::string new_session_id = request.new_session_id().empty()
                                           ? IdOfFork(source.id)
                                           : request.new_session_id();
    ENGRAM_RETURN_IF_ERROR(CheckId("new_session_id", new_session_id));
    source.engine->Fork(source.session, new_session_id,
                        [call](absl::StatusOr<SessionInfo> fork) {
                          Answer(call.get(), std::move(fork));
                        });
    return absl::OkStatus();
  }

  // A session or a checkpoint whose state a call copies.
  struct Source {
    std::string id;
    SessionHandle session;
    Engine* engine = nullptr;  // any that runs its model finds the state
  };

  absl::StatusOr<Source> FindSession(const std::string& session_id,
                                     const UnaryCallBase& call) const {
    ENGRAM_RETURN_IF_ERROR(CheckSession(call.context(), session_id));
    const SessionName name = NameOf(call, session_id);
    Source source;
    source.id = session_id;
    ENGRAM_ASSIGN_OR_RETURN(source.session, sessions().Find(name));
    ENGRAM_ASSIGN_OR_RETURN(const int model, sessions().ModelOf(name));
    source.engine = models_.all()[model]->devices.front().engine.get();
    return source;
  }

  absl::StatusOr<Source> FindSource(const v1::ForkSessionRequest& request,
                                    const UnaryCallBase& call) const {
    if (request.from_checkpoint().empty()) {
      return FindSession(request.session_id(), call);
    }
    if (!request.session_id().empty()) {
      return absl::InvalidArgumentError(
          "session_id and from_checkpoint are both set, but a fork starts from "
          "one of them");
    }
    ENGRAM_RETURN_IF_ERROR(
        CheckId("from_checkpoint", request.from_checkpoint()));
    const SessionName name = NameOf(call, request.from_checkpoint());
    Source source;
    source.id = name.id;
    ENGRAM_ASSIGN_OR_RETURN(const int model,
                            sessions().ModelOfCheckpoint(name));
    ENGRAM_ASSIGN_OR_RETURN(source.session,
                            sessions().UseCheckpoint(name, model));
    source.engine = models_.all()[model]->devices.front().engine.get();
    return source;
  }

  // Answers the call, unless it is refused at once.
  absl::Status MakeCheckpoint(
      const std::shared_ptr<CheckpointCall>& call) const {
    const v1::CheckpointSessionRequest& request = call->request();
    ENGRAM_ASSIGN_OR_RETURN(const Source source,
                            FindSession(request.session_id(), *call));
    ENGRAM_ASSIGN_OR_RETURN(NewCheckpoint checkpoint,
                            ToNewCheckpoint(request, options_));
    source.engine->Snapshot(
        source.session, [this, call, session = source.session,
                         checkpoint = std::move(checkpoint)](
                            absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
          if (!snapshot.ok()) {
            return AnswerCheckpoint(call.get(), snapshot.status());
          }
          AnswerCheckpoint(call.get(), sessions().InstallCheckpoint(
                                           session, checkpoint, snapshot->turns,
                                           std::move(snapshot->block)));
        });
    return absl::OkStatus();
  }

  static void AnswerCheckpoint(CheckpointCall* call,
                               absl::StatusOr<SessionInfo> checkpoint) {
    call->SetSubject({"", call->request().session_id()});
    if (checkpoint.ok()) *call->response() = ToCheckpointMessage(*checkpoint);
    call->Finish(checkpoint.status());
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

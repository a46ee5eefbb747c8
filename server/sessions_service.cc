// engram.v1.Sessions. Fork copies a state, which is the engine's work: it is
// posted there, and the call is answered from the engine thread.

#include <grpcpp/grpcpp.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engram/v1/sessions.grpc.pb.h"
#include "kernels/status.h"
#include "server/service.h"
#include "server/wire.h"

namespace engram {
namespace {

class SessionsService final : public v1::Sessions::CallbackService {
 public:
  SessionsService(const ServedModels* models, const ServerOptions* options)
      : models_(*models), options_(*options) {}

  grpc::ServerUnaryReactor* Create(grpc::CallbackServerContext* context,
                                   const v1::CreateSessionRequest* request,
                                   v1::Session* response) override {
    return Answer(context, "Create", request->session_id(),
                  CreateSession(*request), response);
  }

  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const v1::GetSessionRequest* request,
                                v1::Session* response) override {
    return Answer(context, "Get", request->session_id(), GetSession(*request),
                  response);
  }

  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const v1::ListSessionsRequest* request,
                                 v1::ListSessionsResponse* response) override {
    return Finish(context->DefaultReactor(), "List", "",
                  ListSessions(*request, response));
  }

  grpc::ServerUnaryReactor* Delete(
      grpc::CallbackServerContext* context,
      const v1::DeleteSessionRequest* request,
      v1::DeleteSessionResponse* response) override {
    absl::Status status = CheckId("session_id", request->session_id());
    if (status.ok()) status = sessions().Delete(request->session_id());
    return Finish(context->DefaultReactor(), "Delete", request->session_id(),
                  status);
  }

  grpc::ServerUnaryReactor* Fork(grpc::CallbackServerContext* context,
                                 const v1::ForkSessionRequest* request,
                                 v1::Session* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const absl::Status posted = PostFork(*request, reactor, response);
    if (posted.ok()) return reactor;
    return Finish(reactor, "Fork", request->session_id(), posted);
  }

 private:
  grpc::ServerUnaryReactor* Finish(grpc::ServerUnaryReactor* reactor,
                                   const char* method,
                                   const std::string& session_id,
                                   const absl::Status& status) const {
    models_.ReportAnswer(absl::StrCat("Sessions.", method), "", session_id,
                         status);
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  template <typename Result, typename Response>
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                   const char* method,
                                   const std::string& session_id,
                                   const absl::StatusOr<Result>& result,
                                   Response* response) const {
    if (result.ok()) *response = ToMessage(*result);
    return Finish(context->DefaultReactor(), method, session_id,
                  result.status());
  }

  SessionStore& sessions() const { return *models_.sessions(); }

  absl::StatusOr<SessionInfo> CreateSession(
      const v1::CreateSessionRequest& request) const {
    ENGRAM_ASSIGN_OR_RETURN(ServedModel * model,
                            models_.Find(request.model(), ""));
    ENGRAM_ASSIGN_OR_RETURN(NewSession session,
                            ToNewSession(request, *model, options_));
    return sessions().Create(std::move(session));
  }

  absl::StatusOr<SessionInfo> GetSession(
      const v1::GetSessionRequest& request) const {
    ENGRAM_RETURN_IF_ERROR(CheckId("session_id", request.session_id()));
    return sessions().Get(request.session_id());
  }

  absl::Status ListSessions(const v1::ListSessionsRequest& request,
                            v1::ListSessionsResponse* response) const {
    int model = -1;
    if (!request.model().empty()) {
      ENGRAM_ASSIGN_OR_RETURN(ServedModel * found,
                              models_.Find(request.model(), ""));
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
    std::vector<SessionInfo> page =
        sessions().List(model, request.page_token(), page_size + 1);
    if (static_cast<int64_t>(page.size()) > page_size) {
      page.pop_back();
      response->set_next_page_token(page.back().session_id);
    }
    for (const SessionInfo& session : page) {
      *response->add_sessions() = ToMessage(session);
    }
    return absl::OkStatus();
  }

  absl::Status PostFork(const v1::ForkSessionRequest& request,
                        grpc::ServerUnaryReactor* reactor,
                        v1::Session* response) const {
    if (!request.from_checkpoint().empty()) {
      return absl::UnimplementedError(
          "from_checkpoint: this server has no checkpoints yet; name a "
          "session_id instead");
    }
    ENGRAM_RETURN_IF_ERROR(CheckId("session_id", request.session_id()));
    const std::string new_session_id = request.new_session_id().empty()
                                           ? RandomId()
                                           : request.new_session_id();
    ENGRAM_RETURN_IF_ERROR(CheckId("new_session_id", new_session_id));
    ENGRAM_ASSIGN_OR_RETURN(SessionHandle source,
                            sessions().Find(request.session_id()));
    ENGRAM_ASSIGN_OR_RETURN(const int number,
                            sessions().ModelOf(request.session_id()));
    const ServedModel* model = models_.all()[number].get();
    return model->admission->Post(
        [this, engine = model->engine.get(), source = std::move(source),
         session_id = request.session_id(), new_session_id, reactor, response] {
          const absl::StatusOr<SessionInfo> fork =
              ForkOnEngine(engine, source, new_session_id);
          if (fork.ok()) *response = ToMessage(*fork);
          Finish(reactor, "Fork", session_id, fork.status());
        });
  }

  absl::StatusOr<SessionInfo> ForkOnEngine(
      Engine* engine, const SessionHandle& source,
      const std::string& new_session_id) const {
    ENGRAM_ASSIGN_OR_RETURN(Engine::Snapshot snapshot,
                            engine->TakeSnapshot(source));
    return sessions().InstallFork(source, new_session_id, snapshot.turns,
                                  std::move(snapshot.block));
  }

  const ServedModels& models_;
  const ServerOptions& options_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeSessionsService(
    const ServedModels* models, const ServerOptions* options) {
  return std::make_unique<SessionsService>(models, options);
}

}  // namespace engram

// engram.v1.Sessions. Fork shares a state that is in RAM. To copy one out of its
// slot is the engine's work: it is posted there, and the call is answered from the
// engine thread.

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

class SessionsService final : public v1::Sessions::CallbackService {
 public:
  SessionsService(const ServedModels* models, const ServerOptions* options)
      : models_(*models), options_(*options) {}

  grpc::ServerUnaryReactor* Create(grpc::CallbackServerContext* context,
                                   const v1::CreateSessionRequest* request,
                                   v1::Session* response) override {
    return Answer(context, "Create", request->session_id(),
                  CreateSession(*context, *request), response);
  }

  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const v1::GetSessionRequest* request,
                                v1::Session* response) override {
    return Answer(context, "Get", request->session_id(),
                  GetSession(*context, *request), response);
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
    absl::Status status = CheckSession(*context, request->session_id());
    if (status.ok()) status = sessions().Delete(request->session_id());
    return Finish(context->DefaultReactor(), "Delete", request->session_id(),
                  status);
  }

  grpc::ServerUnaryReactor* Fork(grpc::CallbackServerContext* context,
                                 const v1::ForkSessionRequest* request,
                                 v1::Session* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const absl::Status posted = PostFork(*context, *request, reactor, response);
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

  // Of a session that a call is about.
  static absl::Status CheckSession(const grpc::CallbackServerContext& context,
                                   const std::string& session_id) {
    ENGRAM_RETURN_IF_ERROR(CheckId("session_id", session_id));
    return CheckSessionMetadata(context, session_id);
  }

  absl::StatusOr<SessionInfo> CreateSession(
      const grpc::CallbackServerContext& context,
      const v1::CreateSessionRequest& request) const {
    ENGRAM_RETURN_IF_ERROR(CheckSessionMetadata(context, request.session_id()));
    ENGRAM_ASSIGN_OR_RETURN(ServedModel * model,
                            models_.Find(request.model(), ""));
    ENGRAM_ASSIGN_OR_RETURN(NewSession session,
                            ToNewSession(request, *model, options_));
    return sessions().Create(std::move(session));
  }

  absl::StatusOr<SessionInfo> GetSession(
      const grpc::CallbackServerContext& context,
      const v1::GetSessionRequest& request) const {
    ENGRAM_RETURN_IF_ERROR(CheckSession(context, request.session_id()));
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
    const std::vector<SessionInfo> page =
        sessions().List(model, request.page_token(), page_size + 1);
    size_t bytes = 0;
    for (const SessionInfo& session : page) {
      bytes += session.bytes();
      if (response->sessions_size() == page_size ||
          (bytes > kPageBytes && response->sessions_size() > 0)) {
        response->set_next_page_token(
            response->sessions(response->sessions_size() - 1).session_id());
        break;
      }
      *response->add_sessions() = ToMessage(session);
    }
    return absl::OkStatus();
  }

  absl::Status PostFork(const grpc::CallbackServerContext& context,
                        const v1::ForkSessionRequest& request,
                        grpc::ServerUnaryReactor* reactor,
                        v1::Session* response) const {
    if (!request.from_checkpoint().empty()) {
      return absl::UnimplementedError(
          "from_checkpoint: this server has no checkpoints yet; name a "
          "session_id instead");
    }
    ENGRAM_RETURN_IF_ERROR(CheckSession(context, request.session_id()));
    const std::string new_session_id = request.new_session_id().empty()
                                           ? IdOfFork(request.session_id())
                                           : request.new_session_id();
    ENGRAM_RETURN_IF_ERROR(CheckId("new_session_id", new_session_id));
    ENGRAM_ASSIGN_OR_RETURN(const SessionHandle source,
                            sessions().Find(request.session_id()));
    ENGRAM_ASSIGN_OR_RETURN(const int number,
                            sessions().ModelOf(request.session_id()));
    const auto answer = [this, source, session_id = request.session_id(),
                         new_session_id, reactor, response](
                            absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
      const absl::StatusOr<SessionInfo> fork =
          Install(source, new_session_id, std::move(snapshot));
      if (fork.ok()) *response = ToMessage(*fork);
      Finish(reactor, "Fork", session_id, fork.status());
    };
    ENGRAM_ASSIGN_OR_RETURN(SessionStore::Location location,
                            sessions().Locate(source));
    if (location.slot < 0 || location.block != nullptr) {
      // Shared, not copied.
      answer(StateSnapshots::Snapshot{std::move(location.turns),
                                      std::move(location.block)});
      return absl::OkStatus();
    }
    const ServedModel* model = models_.all()[number].get();
    return model->admission->Post(
        [engine = model->engine.get(), source, answer] {
          engine->TakeSnapshot(source, answer);
        });
  }

  absl::StatusOr<SessionInfo> Install(
      const SessionHandle& source, const std::string& new_session_id,
      absl::StatusOr<StateSnapshots::Snapshot> snapshot) const {
    ENGRAM_RETURN_IF_ERROR(snapshot.status());
    return sessions().InstallFork(source, new_session_id, snapshot->turns,
                                  std::move(snapshot->block));
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

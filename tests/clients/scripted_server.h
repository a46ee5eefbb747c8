// A Generation service that does what a test tells it, call by call, on a free
// port of this machine, and as much of Sessions and Inspection as goes with it.
// It answers as the real server promises to: one fixed answer, continued after
// received_token_ids.
#pragma once

#include <grpcpp/server.h>

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "engram/v1/generation.grpc.pb.h"
#include "engram/v1/inspection.grpc.pb.h"
#include "engram/v1/sessions.grpc.pb.h"

namespace engram::client {

// What one call of Generate does.
struct ScriptedCall {
  // Tokens to send before the stream ends with `status`; with OK: all that are
  // left, then Completed.
  int tokens = 0;
  grpc::Status status;
  // Sent with `status` if it is above 0.
  int retry_after_ms = 0;
  bool send_started = true;
  bool send_completed = true;
  // Send tokens from the first one on, whatever the client says it has.
  bool repeat_received = false;
  // Leave out the first token to send.
  bool skip_one = false;
  // Send `tokens` tokens, then nothing more until this server is destroyed.
  bool hangs = false;
};

// A call that is refused because the server is busy, and may come again after
// so many milliseconds.
ScriptedCall Busy(int retry_after_ms);

// Thread-safe.
class ScriptedServer final : public v1::Generation::Service {
 public:
  static constexpr int64_t kSeed = 4711;

  // The answer has `answer_tokens` tokens with ids 100, 101, ...
  ScriptedServer(int answer_tokens, std::vector<ScriptedCall> script,
                 const std::string& address = "127.0.0.1:0");
  ~ScriptedServer() override;

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  std::vector<v1::GenerateRequest> requests() const;

  // From now on, Sessions.Get knows this session.
  void AddSession(const std::string& session_id, int64_t version);
  // What Sessions.List answers.
  void SetSessions(std::vector<v1::Session> sessions);
  // What Inspection answers.
  void SetDescription(v1::DescribeResponse description);
  void SetReadOut(v1::ReadOutResponse read_out);
  void SetAttribution(v1::AttributeResponse attribution);
  void SetAblation(v1::AblateResponse ablation);
  // What ReadOut was asked last.
  v1::ReadOutRequest read_out_request() const;
  // What Attribute was asked last.
  v1::AttributeRequest attribute_request() const;
  v1::AblateRequest ablate_request() const;
  // Of every call: its method and the metadata x-session-id, "Get mine".
  std::vector<std::string> told_sessions() const;

  // Calls after the end of the script run to their end.
  grpc::Status Generate(
      grpc::ServerContext* context, const v1::GenerateRequest* request,
      grpc::ServerWriter<v1::GenerateResponse>* writer) override;
  // Of a text of one token.
  grpc::Status Score(grpc::ServerContext* context,
                     const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override;

 private:
  class Sessions final : public v1::Sessions::Service {
   public:
    explicit Sessions(ScriptedServer* server) : server_(server) {}
    grpc::Status Get(grpc::ServerContext* context,
                     const v1::GetSessionRequest* request,
                     v1::Session* session) override;
    grpc::Status Create(grpc::ServerContext* context,
                        const v1::CreateSessionRequest* request,
                        v1::Session* session) override;
    grpc::Status Fork(grpc::ServerContext* context,
                      const v1::ForkSessionRequest* request,
                      v1::Session* session) override;
    grpc::Status Delete(grpc::ServerContext* context,
                        const v1::DeleteSessionRequest* request,
                        v1::DeleteSessionResponse* response) override;
    grpc::Status List(grpc::ServerContext* context,
                      const v1::ListSessionsRequest* request,
                      v1::ListSessionsResponse* response) override;
    grpc::Status Checkpoint(grpc::ServerContext* context,
                            const v1::CheckpointSessionRequest* request,
                            v1::CheckpointInfo* checkpoint) override;
    // Of one, of which every field is set.
    grpc::Status ListCheckpoints(
        grpc::ServerContext* context, const v1::ListCheckpointsRequest* request,
        v1::ListCheckpointsResponse* response) override;
    grpc::Status DeleteCheckpoint(
        grpc::ServerContext* context,
        const v1::DeleteCheckpointRequest* request,
        v1::DeleteCheckpointResponse* response) override;
    // "one", "two" and "three".
    grpc::Status Export(
        grpc::ServerContext* context, const v1::ExportRequest* request,
        grpc::ServerWriter<v1::ExportResponse>* writer) override;
    // A session whose model is all that was sent: "one+two".
    grpc::Status Import(grpc::ServerContext* context,
                        grpc::ServerReader<v1::ImportRequest>* reader,
                        v1::ImportResponse* response) override;

   private:
    ScriptedServer* const server_;
  };

  class Inspection final : public v1::Inspection::Service {
   public:
    explicit Inspection(ScriptedServer* server) : server_(server) {}
    grpc::Status Describe(grpc::ServerContext* context,
                          const v1::DescribeRequest* request,
                          v1::DescribeResponse* response) override;
    grpc::Status ReadOut(grpc::ServerContext* context,
                         const v1::ReadOutRequest* request,
                         v1::ReadOutResponse* response) override;
    grpc::Status Attribute(grpc::ServerContext* context,
                           const v1::AttributeRequest* request,
                           v1::AttributeResponse* response) override;
    grpc::Status Ablate(grpc::ServerContext* context,
                        const v1::AblateRequest* request,
                        v1::AblateResponse* response) override;

   private:
    ScriptedServer* const server_;
  };

  void RecordSession(const std::string& method,
                     const grpc::ServerContext& context);
  ScriptedCall Record(const v1::GenerateRequest& request);

  const int answer_tokens_;
  int port_ = 0;
  Sessions sessions_service_{this};
  Inspection inspection_service_{this};
  std::unique_ptr<grpc::Server> server_;
  absl::Notification ends_;
  mutable absl::Mutex mutex_;
  std::deque<ScriptedCall> script_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::GenerateRequest> requests_ ABSL_GUARDED_BY(mutex_);
  v1::DescribeResponse description_ ABSL_GUARDED_BY(mutex_);
  v1::ReadOutResponse read_out_ ABSL_GUARDED_BY(mutex_);
  v1::ReadOutRequest read_out_request_ ABSL_GUARDED_BY(mutex_);
  v1::AttributeResponse attribution_ ABSL_GUARDED_BY(mutex_);
  v1::AttributeRequest attribute_request_ ABSL_GUARDED_BY(mutex_);
  v1::AblateResponse ablation_ ABSL_GUARDED_BY(mutex_);
  v1::AblateRequest ablate_request_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int64_t> versions_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::Session> sessions_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> told_sessions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram::client

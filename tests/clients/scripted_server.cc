#include "tests/clients/scripted_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <utility>

namespace engram::client {

ScriptedCall Busy(int retry_after_ms) {
  ScriptedCall call;
  call.status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "busy");
  call.send_started = false;
  call.retry_after_ms = retry_after_ms;
  return call;
}

ScriptedServer::ScriptedServer(int answer_tokens,
                               std::vector<ScriptedCall> script,
                               const std::string& address)
    : answer_tokens_(answer_tokens), script_(script.begin(), script.end()) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(this);
  builder.RegisterService(&sessions_service_);
  builder.RegisterService(&inspection_service_);
  server_ = builder.BuildAndStart();
}

ScriptedServer::~ScriptedServer() {
  ends_.Notify();
  server_->Shutdown();
}

std::vector<v1::GenerateRequest> ScriptedServer::requests() const {
  absl::MutexLock lock(&mutex_);
  return requests_;
}

void ScriptedServer::AddSession(const std::string& session_id,
                                int64_t version) {
  absl::MutexLock lock(&mutex_);
  versions_[session_id] = version;
}

void ScriptedServer::SetSessions(std::vector<v1::Session> sessions) {
  absl::MutexLock lock(&mutex_);
  sessions_ = std::move(sessions);
}

std::vector<std::string> ScriptedServer::told_sessions() const {
  absl::MutexLock lock(&mutex_);
  return told_sessions_;
}

void ScriptedServer::RecordSession(const std::string& method,
                                   const grpc::ServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("x-session-id");
  const std::string session =
      found == metadata.end()
          ? ""
          : std::string(found->second.data(), found->second.size());
  absl::MutexLock lock(&mutex_);
  told_sessions_.push_back(absl::StrCat(method, " ", session));
}

grpc::Status ScriptedServer::Sessions::Create(
    grpc::ServerContext* context, const v1::CreateSessionRequest* request,
    v1::Session* session) {
  server_->RecordSession("Create", *context);
  session->set_session_id(request->session_id());
  return grpc::Status::OK;
}

grpc::Status ScriptedServer::Sessions::Fork(
    grpc::ServerContext* context, const v1::ForkSessionRequest* request,
    v1::Session* session) {
  server_->RecordSession("Fork", *context);
  session->set_session_id(request->new_session_id());
  return grpc::Status::OK;
}

grpc::Status ScriptedServer::Sessions::Delete(
    grpc::ServerContext* context, const v1::DeleteSessionRequest* request,
    v1::DeleteSessionResponse* response) {
  server_->RecordSession("Delete", *context);
  return {grpc::StatusCode::UNIMPLEMENTED, "sessions stay here"};
}

grpc::Status ScriptedServer::Sessions::List(
    grpc::ServerContext* context, const v1::ListSessionsRequest* request,
    v1::ListSessionsResponse* response) {
  server_->RecordSession("List", *context);
  absl::MutexLock lock(&server_->mutex_);
  response->mutable_sessions()->Add(server_->sessions_.begin(),
                                    server_->sessions_.end());
  return grpc::Status::OK;
}

grpc::Status ScriptedServer::Sessions::Checkpoint(
    grpc::ServerContext* context, const v1::CheckpointSessionRequest* request,
    v1::CheckpointInfo* checkpoint) {
  server_->RecordSession("Checkpoint", *context);
  checkpoint->set_checkpoint_id(request->checkpoint_id());
  *checkpoint->mutable_labels() = request->labels();
  return grpc::Status::OK;
}

grpc::Status ScriptedServer::Sessions::ListCheckpoints(
    grpc::ServerContext* context, const v1::ListCheckpointsRequest* request,
    v1::ListCheckpointsResponse* response) {
  server_->RecordSession("ListCheckpoints", *context);
  v1::CheckpointInfo& checkpoint = *response->add_checkpoints();
  checkpoint.set_checkpoint_id("preface");
  checkpoint.set_model("some-model");
  checkpoint.set_version(3);
  checkpoint.set_position(400);
  checkpoint.set_pending_token(true);
  checkpoint.set_state_bytes(5 << 20);
  checkpoint.mutable_create_time()->set_seconds(1'000'000'000);
  checkpoint.mutable_last_used_time()->set_seconds(1'000'000'000);
  return grpc::Status::OK;
}

grpc::Status ScriptedServer::Sessions::DeleteCheckpoint(
    grpc::ServerContext* context, const v1::DeleteCheckpointRequest* request,
    v1::DeleteCheckpointResponse* response) {
  server_->RecordSession("DeleteCheckpoint", *context);
  return {grpc::StatusCode::NOT_FOUND, "there is no such checkpoint"};
}

grpc::Status ScriptedServer::Sessions::Export(
    grpc::ServerContext* context, const v1::ExportRequest* request,
    grpc::ServerWriter<v1::ExportResponse>* writer) {
  server_->RecordSession("Export", *context);
  for (const char* data : {"one", "two", "three"}) {
    v1::ExportResponse response;
    response.set_data(data);
    writer->Write(response);
  }
  return grpc::Status::OK;
}

grpc::Status ScriptedServer::Sessions::Import(
    grpc::ServerContext* context, grpc::ServerReader<v1::ImportRequest>* reader,
    v1::ImportResponse* response) {
  server_->RecordSession("Import", *context);
  v1::ImportRequest request;
  std::string parts;
  while (reader->Read(&request)) {
    if (request.has_header()) {
      response->mutable_session()->set_session_id(
          request.header().session_id());
      continue;
    }
    parts += (parts.empty() ? "" : "+") + request.data();
  }
  response->mutable_session()->set_model(parts);
  return grpc::Status::OK;
}

grpc::Status ScriptedServer::Score(grpc::ServerContext* context,
                                   const v1::ScoreRequest* request,
                                   v1::ScoreResponse* response) {
  RecordSession("Score", *context);
  response->add_tokens()->set_logprob(-1);
  return grpc::Status::OK;
}

void ScriptedServer::SetDescription(v1::DescribeResponse description) {
  absl::MutexLock lock(&mutex_);
  description_ = std::move(description);
}

void ScriptedServer::SetReadOut(v1::ReadOutResponse read_out) {
  absl::MutexLock lock(&mutex_);
  read_out_ = std::move(read_out);
}

void ScriptedServer::SetAttribution(v1::AttributeResponse attribution) {
  absl::MutexLock lock(&mutex_);
  attribution_ = std::move(attribution);
}

void ScriptedServer::SetAblation(v1::AblateResponse ablation) {
  absl::MutexLock lock(&mutex_);
  ablation_ = std::move(ablation);
}

v1::ReadOutRequest ScriptedServer::read_out_request() const {
  absl::MutexLock lock(&mutex_);
  return read_out_request_;
}

v1::AttributeRequest ScriptedServer::attribute_request() const {
  absl::MutexLock lock(&mutex_);
  return attribute_request_;
}

v1::AblateRequest ScriptedServer::ablate_request() const {
  absl::MutexLock lock(&mutex_);
  return ablate_request_;
}

grpc::Status ScriptedServer::Inspection::Describe(
    grpc::ServerContext* context, const v1::DescribeRequest* request,
    v1::DescribeResponse* response) {
  server_->RecordSession("Describe", *context);
  absl::MutexLock lock(&server_->mutex_);
  *response = server_->description_;
  return grpc::Status::OK;
}

grpc::Status ScriptedServer::Inspection::ReadOut(
    grpc::ServerContext* context, const v1::ReadOutRequest* request,
    v1::ReadOutResponse* response) {
  server_->RecordSession("ReadOut", *context);
  absl::MutexLock lock(&server_->mutex_);
  server_->read_out_request_ = *request;
  *response = server_->read_out_;
  return grpc::Status::OK;
}

grpc::Status ScriptedServer::Inspection::Attribute(
    grpc::ServerContext* context, const v1::AttributeRequest* request,
    v1::AttributeResponse* response) {
  server_->RecordSession("Attribute", *context);
  absl::MutexLock lock(&server_->mutex_);
  server_->attribute_request_ = *request;
  *response = server_->attribution_;
  return grpc::Status::OK;
}

grpc::Status ScriptedServer::Inspection::Ablate(
    grpc::ServerContext* context, const v1::AblateRequest* request,
    v1::AblateResponse* response) {
  server_->RecordSession("Ablate", *context);
  absl::MutexLock lock(&server_->mutex_);
  server_->ablate_request_ = *request;
  *response = server_->ablation_;
  return grpc::Status::OK;
}

grpc::Status ScriptedServer::Sessions::Get(grpc::ServerContext* context,
                                           const v1::GetSessionRequest* request,
                                           v1::Session* session) {
  server_->RecordSession("Get", *context);
  absl::MutexLock lock(&server_->mutex_);
  const auto found = server_->versions_.find(request->session_id());
  if (found == server_->versions_.end()) {
    return {grpc::StatusCode::NOT_FOUND, "there is no such session"};
  }
  session->set_session_id(request->session_id());
  session->set_version(found->second);
  return grpc::Status::OK;
}

ScriptedCall ScriptedServer::Record(const v1::GenerateRequest& request) {
  absl::MutexLock lock(&mutex_);
  requests_.push_back(request);
  if (script_.empty()) return ScriptedCall();
  ScriptedCall call = std::move(script_.front());
  script_.pop_front();
  return call;
}

grpc::Status ScriptedServer::Generate(
    grpc::ServerContext* context, const v1::GenerateRequest* request,
    grpc::ServerWriter<v1::GenerateResponse>* writer) {
  RecordSession("Generate", *context);
  const ScriptedCall call = Record(*request);
  v1::GenerateResponse response;
  if (call.send_started) {
    response.mutable_started()->set_session_id(request->session_id());
    response.mutable_started()->set_request_id(
        request->request_id().empty() ? "made-up" : request->request_id());
    response.mutable_started()->set_seed(kSeed);
    writer->Write(response);
  }
  int index = call.repeat_received ? 0 : request->received_token_ids_size();
  if (call.skip_one) ++index;
  const int end = call.status.ok() && !call.hangs
                      ? answer_tokens_
                      : std::min(answer_tokens_, index + call.tokens);
  for (; index < end; ++index) {
    response.mutable_token()->set_index(index);
    response.mutable_token()->set_id(100 + index);
    response.mutable_token()->set_text(absl::StrCat(index, " "));
    writer->Write(response);
  }
  if (call.hangs) ends_.WaitForNotification();
  if (call.retry_after_ms > 0) {
    context->AddTrailingMetadata("retry-after-ms",
                                 absl::StrCat(call.retry_after_ms));
  }
  if (!call.status.ok()) return call.status;
  if (call.send_completed) {
    response.mutable_completed()->set_finish_reason(v1::LENGTH);
    writer->Write(response);
  }
  return grpc::Status::OK;
}

}  // namespace engram::client

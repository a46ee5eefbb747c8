#include "tests/support/test_server.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "engram/v1/generation.grpc.pb.h"
#include "engram/v1/models.grpc.pb.h"
#include "engram/v1/sessions.grpc.pb.h"
#include "kernels/status.h"
#include "tests/support/folders.h"
#include "tests/support/http_connection.h"

namespace engram {
namespace {

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      status.error_message());
}

// Adds a message to the answer, and whether it may stand there.
template <typename Response>
void Add(Response response, Answer* answer) {
  if (answer->completed.has_value()) answer->in_order = false;
  if (response.has_started()) {
    if (answer->started.has_value()) answer->in_order = false;
    answer->started = std::move(*response.mutable_started());
    return;
  }
  if (!answer->started.has_value()) answer->in_order = false;
  if (response.has_completed()) {
    answer->completed = std::move(*response.mutable_completed());
  } else if (response.has_token()) {
    v1::Token& token = *response.mutable_token();
    if (!answer->tokens.empty() &&
        token.index() != answer->tokens.back().index() + 1) {
      answer->in_order = false;
    }
    answer->tokens.push_back(std::move(token));
  } else {
    answer->in_order = false;
  }
}

void Prepare(const std::string& key, absl::Duration limit,
             grpc::ClientContext* context) {
  context->set_deadline(absl::ToChronoTime(absl::Now() + limit));
  if (!key.empty()) context->AddMetadata("authorization", "Bearer " + key);
}

class GrpcGenerateStream final : public GenerateStream {
 public:
  GrpcGenerateStream(v1::Generation::Stub* stub,
                     const v1::GenerateRequest& request,
                     absl::Duration deadline, const std::string& key) {
    Prepare(key, deadline, &context_);
    reader_ = stub->Generate(&context_, request);
  }
  ~GrpcGenerateStream() override {
    if (ended_) return;
    context_.TryCancel();
    ReadAll();
  }

  bool Read(v1::GenerateResponse* response) override {
    if (!reader_->Read(response)) return false;
    Add(*response, &answer_);
    return true;
  }
  void Cancel() override { context_.TryCancel(); }
  Answer ReadAll() override {
    v1::GenerateResponse response;
    while (Read(&response)) {
    }
    answer_.status = FromGrpc(reader_->Finish());
    for (const auto& [key, value] : context_.GetServerTrailingMetadata()) {
      answer_.trailing[std::string(key.data(), key.size())] =
          std::string(value.data(), value.size());
    }
    ended_ = true;
    return answer_;
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  Answer answer_;
  bool ended_ = false;
};

class GrpcConverseStream final : public ConverseStream {
 public:
  GrpcConverseStream(v1::Generation::Stub* stub, const std::string& key) {
    Prepare(key, kTestLimit, &context_);
    stream_ = stub->Converse(&context_);
  }
  ~GrpcConverseStream() override {
    if (ended_) return;
    context_.TryCancel();
    Finish().IgnoreError();
  }

  bool Write(const v1::ConverseRequest& request) override {
    return stream_->Write(request);
  }
  void WritesDone() override { stream_->WritesDone(); }
  bool Read(v1::ConverseResponse* response) override {
    return stream_->Read(response);
  }
  void Cancel() override { context_.TryCancel(); }
  absl::Status Finish() override {
    if (!ended_) {
      v1::ConverseResponse response;
      while (stream_->Read(&response)) {
      }
      status_ = FromGrpc(stream_->Finish());
      ended_ = true;
    }
    return status_;
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<
      grpc::ClientReaderWriter<v1::ConverseRequest, v1::ConverseResponse>>
      stream_;
  bool ended_ = false;
  absl::Status status_;
};

std::shared_ptr<grpc::Channel> OpenTestChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(),
                                   arguments);
}

// A unary call by its stub's method.
template <typename Stub, typename Request, typename Response>
absl::StatusOr<Response> Call(const std::string& key,
                              const std::unique_ptr<Stub>& stub,
                              grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                           const Request&,
                                                           Response*),
                              const Request& request) {
  grpc::ClientContext context;
  Prepare(key, kTestLimit, &context);
  Response response;
  const grpc::Status status =
      (stub.get()->*method)(&context, request, &response);
  if (!status.ok()) return FromGrpc(status);
  return response;
}

}  // namespace

bool Eventually(absl::FunctionRef<bool()> condition) {
  const absl::Time limit = absl::Now() + kTestLimit;
  while (!condition()) {
    if (absl::Now() >= limit) return false;
  }
  return true;
}

void RunAtOnce(int count, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(body, i);
  for (std::thread& thread : threads) thread.join();
}

// --- Metrics.

MetricsPage::MetricsPage(std::string text) : text_(std::move(text)) {
  for (absl::string_view line : absl::StrSplit(text_, '\n')) {
    const size_t blank = line.rfind(' ');
    if (line.empty() || line[0] == '#' || blank == line.npos) continue;
    double value = 0;
    if (absl::SimpleAtod(line.substr(blank + 1), &value)) {
      samples_.emplace_back(std::string(line.substr(0, blank)), value);
    }
  }
}

bool MetricsPage::HasFamily(absl::string_view name) const {
  return absl::StrContains(text_, absl::StrCat("# TYPE engram_", name, " "));
}

double MetricsPage::Sum(absl::string_view name,
                        const std::vector<std::string>& labels) const {
  double sum = 0;
  for (const auto& [sample, value] : samples_) {
    const size_t brace = sample.find('{');
    if (sample.substr(0, brace) != absl::StrCat("engram_", name)) continue;
    bool matches = true;
    for (const std::string& label : labels) {
      matches = matches && absl::StrContains(sample, label);
    }
    if (matches) sum += value;
  }
  return sum;
}

std::vector<std::string> MetricsPage::Samples(absl::string_view name) const {
  std::vector<std::string> samples;
  for (const auto& [sample, value] : samples_) {
    if (name.empty() ||
        sample.substr(0, sample.find('{')) == absl::StrCat("engram_", name)) {
      samples.push_back(sample);
    }
  }
  std::sort(samples.begin(), samples.end());
  return samples;
}

absl::StatusOr<MetricsPage> FetchMetrics(const std::string& address) {
  HttpAnswer answer = AskHttp(address, "GET", "/metrics");
  if (answer.status != 200) {
    return absl::UnavailableError(absl::StrCat("no metrics on ", address, ": ",
                                               answer.head, answer.body));
  }
  return MetricsPage(std::move(answer.body));
}

// --- Calls.

std::string Answer::text() const {
  std::string all;
  for (const v1::Token& token : tokens) all += token.text();
  if (completed.has_value()) all += completed->text();
  return all;
}

std::vector<int32_t> Answer::ids() const {
  std::vector<int32_t> all;
  for (const v1::Token& token : tokens) all.push_back(token.id());
  return all;
}

std::vector<float> Answer::logprobs() const {
  std::vector<float> all;
  for (const v1::Token& token : tokens) all.push_back(token.logprob());
  return all;
}

bool GenerateStream::ReadStarted() {
  v1::GenerateResponse response;
  return Read(&response) && response.has_started();
}

bool ConverseStream::WriteTurn(const v1::GenerateRequest& turn) {
  v1::ConverseRequest request;
  *request.mutable_turn() = turn;
  return Write(request);
}

bool ConverseStream::WriteCancel() {
  v1::ConverseRequest request;
  request.mutable_cancel();
  return Write(request);
}

Answer ConverseStream::ReadTurn() {
  Answer answer;
  v1::ConverseResponse response;
  while (Read(&response)) {
    const bool last = response.has_completed();
    Add(std::move(response), &answer);
    if (last) return answer;
  }
  answer.status = Finish();
  return answer;
}

struct TestClient::Stubs {
  explicit Stubs(const std::shared_ptr<grpc::Channel>& channel)
      : generation(v1::Generation::NewStub(channel)),
        sessions(v1::Sessions::NewStub(channel)),
        models(v1::Models::NewStub(channel)) {}

  std::unique_ptr<v1::Generation::Stub> generation;
  std::unique_ptr<v1::Sessions::Stub> sessions;
  std::unique_ptr<v1::Models::Stub> models;
};

TestClient::TestClient(const std::string& address, std::string key)
    : stubs_(std::make_unique<Stubs>(OpenTestChannel(address))),
      key_(std::move(key)) {}

TestClient::~TestClient() = default;

std::unique_ptr<GenerateStream> TestClient::StartGenerate(
    const v1::GenerateRequest& request, absl::Duration deadline) const {
  return std::make_unique<GrpcGenerateStream>(stubs_->generation.get(), request,
                                              deadline, key_);
}

Answer TestClient::Generate(const v1::GenerateRequest& request,
                            absl::Duration deadline) const {
  return StartGenerate(request, deadline)->ReadAll();
}

std::unique_ptr<ConverseStream> TestClient::Converse() const {
  return std::make_unique<GrpcConverseStream>(stubs_->generation.get(), key_);
}

absl::StatusOr<v1::ScoreResponse> TestClient::Score(
    const v1::ScoreRequest& request) const {
  return Call(key_, stubs_->generation, &v1::Generation::Stub::Score, request);
}

absl::StatusOr<v1::Session> TestClient::CreateSession(
    const v1::CreateSessionRequest& request) const {
  return Call(key_, stubs_->sessions, &v1::Sessions::Stub::Create, request);
}

absl::StatusOr<v1::Session> TestClient::GetSession(
    const std::string& session_id) const {
  v1::GetSessionRequest request;
  request.set_session_id(session_id);
  return Call(key_, stubs_->sessions, &v1::Sessions::Stub::Get, request);
}

absl::StatusOr<v1::ListSessionsResponse> TestClient::ListSessions(
    const v1::ListSessionsRequest& request) const {
  return Call(key_, stubs_->sessions, &v1::Sessions::Stub::List, request);
}

absl::Status TestClient::DeleteSession(const std::string& session_id) const {
  v1::DeleteSessionRequest request;
  request.set_session_id(session_id);
  return Call(key_, stubs_->sessions, &v1::Sessions::Stub::Delete, request)
      .status();
}

absl::StatusOr<v1::Session> TestClient::Fork(
    const std::string& session_id, const std::string& new_session_id) const {
  v1::ForkSessionRequest request;
  request.set_session_id(session_id);
  request.set_new_session_id(new_session_id);
  return Fork(request);
}

absl::StatusOr<v1::Session> TestClient::Fork(
    const v1::ForkSessionRequest& request) const {
  return Call(key_, stubs_->sessions, &v1::Sessions::Stub::Fork, request);
}

absl::StatusOr<v1::CheckpointInfo> TestClient::Checkpoint(
    const std::string& session_id, const std::string& checkpoint_id) const {
  v1::CheckpointSessionRequest request;
  request.set_session_id(session_id);
  request.set_checkpoint_id(checkpoint_id);
  return Call(key_, stubs_->sessions, &v1::Sessions::Stub::Checkpoint, request);
}

absl::StatusOr<v1::ListCheckpointsResponse> TestClient::ListCheckpoints(
    const v1::ListCheckpointsRequest& request) const {
  return Call(key_, stubs_->sessions, &v1::Sessions::Stub::ListCheckpoints,
              request);
}

absl::Status TestClient::DeleteCheckpoint(
    const std::string& checkpoint_id) const {
  v1::DeleteCheckpointRequest request;
  request.set_checkpoint_id(checkpoint_id);
  return Call(key_, stubs_->sessions, &v1::Sessions::Stub::DeleteCheckpoint,
              request)
      .status();
}

absl::StatusOr<v1::ListModelsResponse> TestClient::ListModels() const {
  return Call(key_, stubs_->models, &v1::Models::Stub::List,
              v1::ListModelsRequest());
}

absl::StatusOr<v1::ModelInfo> TestClient::GetModel(
    const std::string& model) const {
  v1::GetModelRequest request;
  request.set_model(model);
  return Call(key_, stubs_->models, &v1::Models::Stub::Get, request);
}

absl::StatusOr<v1::TokenizeResponse> TestClient::Tokenize(
    const v1::TokenizeRequest& request) const {
  return Call(key_, stubs_->models, &v1::Models::Stub::Tokenize, request);
}

absl::StatusOr<v1::DetokenizeResponse> TestClient::Detokenize(
    const v1::DetokenizeRequest& request) const {
  return Call(key_, stubs_->models, &v1::Models::Stub::Detokenize, request);
}

std::vector<int32_t> TestClient::Ids(const std::string& model,
                                     const std::string& text) const {
  v1::TokenizeRequest request;
  request.set_model(model);
  request.set_text(text);
  const auto response = Tokenize(request);
  ENGRAM_CHECK_OK(response.status());
  return {response->token_ids().begin(), response->token_ids().end()};
}

// --- Requests.

v1::GenerateRequest TextTurn(const std::string& model, const std::string& text,
                             int max_tokens) {
  v1::GenerateRequest request;
  request.set_model(model);
  request.set_text(text);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

v1::GenerateRequest TokenTurn(const std::string& model,
                              const std::vector<int32_t>& ids, int max_tokens) {
  v1::GenerateRequest request;
  request.set_model(model);
  request.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

v1::GenerateRequest OnSession(v1::GenerateRequest request,
                              const std::string& session_id,
                              const std::string& request_id) {
  request.set_session_id(session_id);
  request.set_request_id(request_id);
  return request;
}

v1::ScoreRequest TokenScore(const std::string& model,
                            const std::vector<int32_t>& ids,
                            const std::string& session_id) {
  v1::ScoreRequest request;
  request.set_model(model);
  request.set_session_id(session_id);
  request.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  return request;
}

v1::GenerateRequest EndlessTurn(const std::string& model) {
  v1::GenerateRequest request = TokenTurn(model, {1, 2, 3}, 1 << 20);
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(1);
  return request;
}

std::string Words(size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += "7 3 1 0 ";
  text.resize(bytes);
  return text;
}

v1::GenerateRequest TurnThatIsReadForLong() {
  return TextTurn("", Words(8 << 20) + "what", 1);
}

std::vector<int32_t> RandomIds(int count, int64_t vocabulary_size,
                               uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random() % vocabulary_size);
  }
  return ids;
}

// --- The server.

namespace {

// Servers end beside the tests that follow: their metrics port takes two
// seconds to close.
class Ending {
 public:
  ~Ending() {
    for (std::thread& thread : threads_) thread.join();
  }
  void Add(std::unique_ptr<Server> server) {
    threads_.emplace_back(
        [server = std::move(server)]() mutable { server.reset(); });
  }

 private:
  std::vector<std::thread> threads_;
};

}  // namespace

ServerOptions ZooOptions(const std::vector<std::string>& models) {
  ServerOptions options;
  for (const std::string& model : models) {
    options.models.emplace_back(model, SourceFile("model/zoo/" + model));
  }
  options.grpc_address = "127.0.0.1:0";
  options.metrics_address = "127.0.0.1:0";
  options.threads = 1;
  options.drain_timeout = absl::ZeroDuration();
  options.request_log = false;
  // Tests of other things hold on a machine that stalls for seconds.
  options.max_queue_time = absl::InfiniteDuration();
  // An answer that a test does not read goes on, and keeps its slot.
  options.stream_tokens = 1 << 20;
  return options;
}

ServerOptions GoldenOptions(
    const std::vector<std::pair<std::string, std::string>>& models) {
  ServerOptions options = ZooOptions({});
  options.kv_memory = 16 << 20;
  for (const auto& [name, golden] : models) {
    options.models.emplace_back(name, SourceFile("tests/golden/" + golden));
  }
  return options;
}

TestServer::TestServer(const ServerOptions& options) {
  auto server = Server::Start(options);
  ENGRAM_CHECK_OK(server.status());
  server_ = *std::move(server);
  client_ = std::make_unique<TestClient>(server_->grpc_address());
}

TestServer::~TestServer() {
  static Ending ending;
  ending.Add(std::move(server_));
}

MetricsPage TestServer::Metrics() const {
  auto page = FetchMetrics(server_->metrics_address());
  ENGRAM_CHECK_OK(page.status());
  return *std::move(page);
}

bool TestServer::AwaitLoad(int running, int waiting) const {
  return Eventually([&] {
    const MetricsPage page = Metrics();
    return page.Sum("num_requests_running") == running &&
           page.Sum("num_requests_waiting") == waiting;
  });
}

}  // namespace engram

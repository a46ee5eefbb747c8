// A whole server in this process, on free ports of the loopback device, and a
// client that does one call as it is told, without the client library's
// repeats. Metrics are read as Prometheus does, over HTTP.
//
// No gRPC header is included here: they make compilation slow.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engram/v1/generation.pb.h"
#include "engram/v1/models.pb.h"
#include "engram/v1/sessions.pb.h"
#include "server/options.h"
#include "server/server.h"
#include "tests/support/sanitizers.h"

namespace engram {

// Sizes of tests that only need to be large where the code is quick.
constexpr int Scaled(int full, int sanitized) {
  return kSanitized ? sanitized : full;
}

// No call or wait of a test may take longer: a hang becomes a failure.
#ifdef ENGRAM_ALL_TESTS_ON_EMULATED_DEVICE
inline constexpr absl::Duration kTestLimit = absl::Seconds(400);
#else
inline constexpr absl::Duration kTestLimit =
    absl::Seconds(kSanitized ? 400 : 120);
#endif

inline constexpr char kEnglish[] = "mamba-english";
inline constexpr char kInduction[] = "mamba-induction";

// Asks again and again until it is true; false after kTestLimit. `condition`
// is to ask the server something, or this would only burn time.
bool Eventually(absl::FunctionRef<bool()> condition);

// Runs `body(0)` to `body(count - 1)` at the same time, each in its thread.
void RunAtOnce(int count, const std::function<void(int)>& body);

// --- Metrics.

class MetricsPage {
 public:
  // Of a Prometheus page.
  explicit MetricsPage(std::string text);

  const std::string& text() const { return text_; }
  // Whether there is a family of this name, without "engram_".
  bool HasFamily(absl::string_view name) const;
  // The sum of the samples of `name` (without "engram_") that have all of these
  // labels, each as `model="x"`.
  double Sum(absl::string_view name,
             const std::vector<std::string>& labels = {}) const;
  // Each sample of `name` (without "engram_"), or of all, with its labels and
  // without its value; sorted.
  std::vector<std::string> Samples(absl::string_view name = "") const;

 private:
  std::string text_;
  std::vector<std::pair<std::string, double>> samples_;
};

// By plain HTTP from HOST:PORT.
absl::StatusOr<MetricsPage> FetchMetrics(const std::string& address);

// --- Calls.

// All that one turn was answered with.
struct Answer {
  absl::Status status;
  std::optional<v1::Started> started;
  std::vector<v1::Token> tokens;
  std::optional<v1::Completed> completed;
  std::map<std::string, std::string> trailing;  // metadata, of Generate
  // Started first, tokens by index without a gap, Completed last.
  bool in_order = true;

  std::string text() const;  // with what Completed adds
  std::vector<int32_t> ids() const;
  std::vector<float> logprobs() const;
};

// One running Generate. One thread reads; anyone may Cancel.
class GenerateStream {
 public:
  virtual ~GenerateStream() = default;  // cancels what is still running
  // The next message; false at the end.
  virtual bool Read(v1::GenerateResponse* response) = 0;
  virtual void Cancel() = 0;
  // Reads what is left. All of the call's answer, from its first message on.
  virtual Answer ReadAll() = 0;
  // Whether the next message is Started.
  bool ReadStarted();
};

// One Converse. One thread reads, one writes; anyone may Cancel.
class ConverseStream {
 public:
  virtual ~ConverseStream() = default;
  virtual bool Write(const v1::ConverseRequest& request) = 0;
  virtual void WritesDone() = 0;
  virtual bool Read(v1::ConverseResponse* response) = 0;
  virtual void Cancel() = 0;
  // Reads what is left; the stream's status.
  virtual absl::Status Finish() = 0;

  bool WriteTurn(const v1::GenerateRequest& turn);
  bool WriteCancel();
  // To the end of a turn, or of the stream: then with its status.
  Answer ReadTurn();
};

// Thread-safe. Every call is over after kTestLimit at the latest.
class TestClient {
 public:
  // A connection of its own. `key` is sent with every call, if there is one.
  explicit TestClient(const std::string& address, std::string key = "");
  ~TestClient();

  std::unique_ptr<GenerateStream> StartGenerate(
      const v1::GenerateRequest& request,
      absl::Duration deadline = kTestLimit) const;
  Answer Generate(const v1::GenerateRequest& request,
                  absl::Duration deadline = kTestLimit) const;
  std::unique_ptr<ConverseStream> Converse() const;
  absl::StatusOr<v1::ScoreResponse> Score(
      const v1::ScoreRequest& request) const;

  absl::StatusOr<v1::Session> CreateSession(
      const v1::CreateSessionRequest& request) const;
  absl::StatusOr<v1::Session> GetSession(const std::string& session_id) const;
  absl::StatusOr<v1::ListSessionsResponse> ListSessions(
      const v1::ListSessionsRequest& request) const;
  absl::Status DeleteSession(const std::string& session_id) const;
  absl::StatusOr<v1::Session> Fork(const std::string& session_id,
                                   const std::string& new_session_id) const;
  absl::StatusOr<v1::Session> Fork(const v1::ForkSessionRequest& request) const;
  absl::StatusOr<v1::CheckpointInfo> Checkpoint(
      const std::string& session_id, const std::string& checkpoint_id) const;
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
      const v1::ListCheckpointsRequest& request) const;
  absl::Status DeleteCheckpoint(const std::string& checkpoint_id) const;

  absl::StatusOr<v1::ListModelsResponse> ListModels() const;
  absl::StatusOr<v1::ModelInfo> GetModel(const std::string& model) const;
  absl::StatusOr<v1::TokenizeResponse> Tokenize(
      const v1::TokenizeRequest& request) const;
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(
      const v1::DetokenizeRequest& request) const;
  // Of a text that can be tokenized.
  std::vector<int32_t> Ids(const std::string& model,
                           const std::string& text) const;

 private:
  struct Stubs;
  const std::unique_ptr<Stubs> stubs_;
  const std::string key_;
};

// --- Requests, short to write.

v1::GenerateRequest TextTurn(const std::string& model, const std::string& text,
                             int max_tokens);
v1::GenerateRequest TokenTurn(const std::string& model,
                              const std::vector<int32_t>& ids, int max_tokens);
v1::GenerateRequest OnSession(v1::GenerateRequest request,
                              const std::string& session_id,
                              const std::string& request_id = "");
v1::ScoreRequest TokenScore(const std::string& model,
                            const std::vector<int32_t>& ids,
                            const std::string& session_id = "");
// One that goes on until it is stopped from outside.
v1::GenerateRequest EndlessTurn(const std::string& model);
// A text of so many bytes, an even number: a word of kInduction in every two.
std::string Words(size_t bytes);
// One that keeps a thread which reads long requests for a while, and is then
// refused: at the end of its text is a word that kInduction does not know.
v1::GenerateRequest TurnThatIsReadForLong();
// The same ids for the same arguments.
std::vector<int32_t> RandomIds(int count, int64_t vocabulary_size,
                               uint32_t seed = 0);

// --- The server.

// Of the models of the zoo named, on free ports, with one thread per model and
// without a request log; a drain ends what runs at once.
ServerOptions ZooOptions(const std::vector<std::string>& models);
// Likewise of golden models, as {"h3", "h3/hybrid"} for tests/golden/h3/hybrid:
// small, with random weights and no tokenizer. Little memory for keys and
// values: all of it is touched at start.
ServerOptions GoldenOptions(
    const std::vector<std::pair<std::string, std::string>>& models);

class TestServer {
 public:
  explicit TestServer(const ServerOptions& options);
  ~TestServer();

  Server& server() { return *server_; }
  const std::string& address() const { return server_->grpc_address(); }
  const TestClient& client() const { return *client_; }
  MetricsPage Metrics() const;
  // Until the gauges of running requests and waiting ones, over all models,
  // are these.
  bool AwaitLoad(int running, int waiting) const;

 private:
  std::unique_ptr<Server> server_;
  std::unique_ptr<TestClient> client_;
};

}  // namespace engram

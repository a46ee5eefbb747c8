// What a server takes of a device and pins of the host's memory: all of it
// before it says that it is ready, and nothing under whatever load comes then.
// The device is emulated, and counts what it is asked for.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

constexpr char kMamba[] = "mamba";
constexpr char kHybrid[] = "hybrid";
constexpr char kH3[] = "h3";
const std::vector<std::string>& Models() {
  static const auto* const models =
      new std::vector<std::string>{kMamba, "mamba2", kH3, kHybrid};
  return *models;
}
constexpr int kVocabulary = 40;  // no model has fewer ids
constexpr int kSlots = 3;
constexpr int kSessions = 8;  // of a model: most states are in RAM
constexpr int kTurns = 2;

ServerOptions Options() {
  ServerOptions options = GoldenOptions({{kMamba, "mamba/usual"},
                                         {"mamba2", "mamba2/two_groups"},
                                         {kH3, "h3/plain"},
                                         {kHybrid, "mamba2/hybrid"}});
  options.slots = kSlots;
  options.max_batch_tokens = 24;
  return options;
}

// Calls by which the runtime, or its driver, takes memory.
int64_t Takings() {
  const emulation::Counts counts = emulation::counts();
  return counts.device_allocations + counts.host_allocations +
         counts.instantiations;
}

// Gone with all that it has of memory when this is, which a TestServer is
// later.
class OwnServer {
 public:
  explicit OwnServer(const ServerOptions& options)
      : server_(Server::Start(options).value()),
        client_(server_->grpc_address()) {}

  const TestClient& client() const { return client_; }
  MetricsPage Metrics() const {
    return FetchMetrics(server_->metrics_address()).value();
  }

 private:
  const std::unique_ptr<Server> server_;
  const TestClient client_;
};

v1::GenerateRequest TurnOf(const std::string& model, int session, int turn) {
  v1::GenerateRequest request = TokenTurn(
      model, RandomIds(1 + 7 * session, kVocabulary, session + turn), 4);
  request.mutable_stopping()->set_ignore_eos(true);
  // All that draws can ask for.
  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(0.8f);
  sampling.set_repetition_penalty(1.1f);
  sampling.set_frequency_penalty(0.1f);
  for (int id = 0; id < session; ++id) (*sampling.mutable_logit_bias())[id] = 1;
  if (session % 2 == 1) request.set_logprobs(5);
  for (int id = 0; id < turn; ++id) {
    request.mutable_stopping()->add_stop_token_ids(kVocabulary - 1 - id);
  }
  return OnSession(std::move(request), absl::StrCat(model, session));
}

void RunSession(const TestClient& client, const std::string& model,
                int session) {
  for (int turn = 0; turn < kTurns; ++turn) {
    const Answer answer = client.Generate(TurnOf(model, session, turn));
    EXPECT_TRUE(answer.status.ok()) << answer.status;
  }
  const std::string id = absl::StrCat(model, session);
  const std::string fork = absl::StrCat(id, "-fork");
  EXPECT_TRUE(client.Fork(id, fork).ok());
  v1::GenerateRequest on_fork = TurnOf(model, session, kTurns);
  on_fork.set_session_id(fork);
  EXPECT_TRUE(client.Generate(on_fork).status.ok());
  EXPECT_TRUE(client.Score(TokenScore(model, {1, 2, 3}, id)).ok());
  if (session % 3 == 0) {
    EXPECT_TRUE(client.DeleteSession(id).ok());
  }
}

// Sessions of all models at once, without one, and of texts with stop strings.
void RunLoad(const TestClient& client) {
  const int models = static_cast<int>(Models().size());
  RunAtOnce(models * kSessions, [&](int i) {
    RunSession(client, Models()[i % models], i / models);
  });
}

TEST(Memory, IsNotTakenOnceTheServerIsReady) {
  const OwnServer server(Options());
  const int64_t before = Takings();
  EXPECT_GT(before, 0);
  RunLoad(server.client());
  EXPECT_EQ(Takings(), before);
  const MetricsPage metrics = server.Metrics();
  EXPECT_GT(metrics.Sum("session_evictions_total"), 0);
  EXPECT_GT(metrics.Sum("session_restores_total"), 0);
}

// Sequences with stop strings have two slots, and may go back by a step.
TEST(Memory, IsNotTakenForTextsWithStopStrings) {
  ServerOptions options = ZooOptions({kInduction});
  options.slots = kSlots;
  options.max_batch_tokens = 24;
  const OwnServer server(options);
  const int64_t before = Takings();
  RunAtOnce(kSessions, [&](int session) {
    v1::GenerateRequest request =
        TextTurn(kInduction, Words(2 + 2 * session), 6);
    request.mutable_stopping()->add_stop("7");
    request.mutable_stopping()->add_stop(" 3");
    request = OnSession(request, absl::StrCat("s", session));
    EXPECT_TRUE(server.client().Generate(request).status.ok());
    EXPECT_TRUE(server.client().Generate(request).status.ok());
  });
  EXPECT_EQ(Takings(), before);
}

// What this test would notice.
TEST(Memory, IsCountedWhereItIsTaken) {
  const int64_t before = Takings();
  void* memory = nullptr;
  ASSERT_EQ(cudaMallocHost(&memory, 1), cudaSuccess);
  EXPECT_EQ(Takings(), before + 1);
  ASSERT_EQ(cudaFreeHost(memory), cudaSuccess);
}

// Beyond what is pinned states have ordinary memory, and are the same.
TEST(Memory, OfStatesIsPinnedAsFarAsTheLimitGoes) {
  ServerOptions options = Options();
  double steps = 0;
  const auto run = [&](int64_t pinned) {
    options.pinned_memory = pinned;
    const OwnServer server(options);
    const emulation::Counts before = emulation::counts();
    const int64_t takings = Takings();
    std::vector<std::vector<int32_t>> said(kSessions);
    RunAtOnce(kSessions, [&](int session) {
      v1::GenerateRequest request = TurnOf(kHybrid, session, 0);
      request.mutable_sampling()->set_seed(session);
      EXPECT_TRUE(server.client().Generate(request).status.ok());
      said[session] = server.client().Generate(request).ids();
    });
    EXPECT_EQ(Takings(), takings);
    const MetricsPage metrics = server.Metrics();
    EXPECT_EQ(metrics.Sum("pinned_memory_bytes"),
              metrics.Sum("pinned_memory_limit_bytes"));
    EXPECT_GT(metrics.Sum("session_restores_total"), 0);
    steps = metrics.Sum("pinned_memory_bytes", {"kind=\"steps\""});
    EXPECT_GT(steps, 0);
    if (pinned > 0) {
      EXPECT_EQ(metrics.Sum("pinned_memory_limit_bytes"), pinned);
      EXPECT_GT(emulation::counts().pageable_copies, before.pageable_copies);
    }
    return said;
  };
  const auto said = run(0);
  // A page for each model's rest.
  const int64_t least = static_cast<int64_t>(steps) + 4 * 4096;
  EXPECT_EQ(run(least), said);
}

TEST(Memory, ThatStepsNeedAndIsNotAllowedToBePinnedIsRefused) {
  ServerOptions options = Options();
  options.pinned_memory = int64_t{16} << 10;
  const auto server = Server::Start(options);
  EXPECT_EQ(server.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message(server.status().message());
  EXPECT_NE(message.find("bytes of page-locked memory (--pinned-memory)"),
            std::string::npos)
      << message;
  EXPECT_NE(message.find("16384 are left of 16384 that --pinned-memory allows"),
            std::string::npos)
      << message;
}

}  // namespace
}  // namespace engram

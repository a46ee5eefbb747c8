// The server with one model on two devices: sessions are on both, go on, move,
// are forked, scored and told, and say what the same turns say on one.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

constexpr int kSessions = 32;
constexpr int kSlots = 6;  // of a device: most states are in RAM
constexpr char kModel[] = "mamba2";

ServerOptions Options(std::vector<int> devices) {
  ServerOptions options = GoldenOptions({{kModel, "mamba2/two_groups"}});
  options.devices = std::move(devices);
  options.slots = kSlots;
  options.max_batch_tokens = 24;
  return options;
}

v1::GenerateRequest TurnOf(int session, int turn) {
  v1::GenerateRequest request = TokenTurn(
      kModel, RandomIds(2 + session % 5, /*vocabulary_size=*/48, session), 3);
  request.mutable_sampling()->set_temperature(0.8f);
  request.mutable_sampling()->set_seed(turn + 1);
  request.mutable_stopping()->set_ignore_eos(true);
  return OnSession(std::move(request), absl::StrCat("s", session));
}

// What each session has said after three turns, at once with all others; half
// of them go on from a fork of their second.
std::vector<std::vector<int32_t>> RunSessions(const TestClient& client) {
  std::vector<std::vector<int32_t>> said(kSessions);
  const auto run = [&](v1::GenerateRequest request, int session) {
    const Answer answer = client.Generate(request);
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_TRUE(answer.in_order);
    for (const int32_t id : answer.ids()) said[session].push_back(id);
  };
  RunAtOnce(kSessions, [&](int session) {
    run(TurnOf(session, 0), session);
    run(TurnOf(session, 1), session);
    v1::GenerateRequest last = TurnOf(session, 2);
    if (session % 2 == 0) {
      const std::string fork = absl::StrCat("f", session);
      EXPECT_TRUE(client.Fork(last.session_id(), fork).ok());
      last.set_session_id(fork);
    }
    run(std::move(last), session);
  });
  return said;
}

// Skips where this machine has not so many.
class Devices : public ::testing::Test {
 protected:
  void SetUp() override {
    if (CountCudaDevices().value_or(0) < 2) {
      GTEST_SKIP() << "this machine has no two devices";
    }
  }
};

TEST_F(Devices, SessionsOnTwoSayWhatTheySayOnOne) {
  TestServer one(Options({0}));
  const auto expected = RunSessions(one.client());
  EXPECT_EQ(one.Metrics().Sum("slots"), kSlots);
  EXPECT_EQ(one.Metrics().Sum("slots", {"device=\"0\""}), 0) << "no label";

  TestServer two(Options({0, 1}));
  EXPECT_EQ(RunSessions(two.client()), expected);
  const MetricsPage metrics = two.Metrics();
  for (const char* const device : {"device=\"0\"", "device=\"1\""}) {
    EXPECT_EQ(metrics.Sum("slots", {device}), kSlots);
    EXPECT_EQ(metrics.Sum("slots_used", {device}), kSlots);
    EXPECT_GT(metrics.Sum("step_rows_count", {device}), 0);
    EXPECT_GT(metrics.Sum("device_memory_bytes", {device}), 0);
  }
  EXPECT_EQ(metrics.Sum("requests_total", {"finish_reason=\"length\""}),
            3 * kSessions);
  EXPECT_GT(metrics.Sum("session_restores_total"), 0);
  EXPECT_EQ(metrics.Sum("sessions", {"tier=\"slot\""}), 2 * kSlots);

  const auto one_score =
      one.client().Score(TokenScore(kModel, {1, 2, 3}, "s1"));
  const auto two_score =
      two.client().Score(TokenScore(kModel, {1, 2, 3}, "s1"));
  ASSERT_TRUE(one_score.ok() && two_score.ok());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(two_score->tokens(i).logprob(), one_score->tokens(i).logprob());
  }
  EXPECT_TRUE(two.client().DeleteSession("s1").ok());
  EXPECT_TRUE(two.server().Drain().ok());
}

TEST_F(Devices, OneThatIsNotThereIsRefused) {
  const auto server = Server::Start(Options({0, *CountCudaDevices()}));
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace engram

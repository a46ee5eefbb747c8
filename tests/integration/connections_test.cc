// Many connections to a whole server: those that do nothing never cost those
// that do, nor the server its life.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "tests/integration/child_process.h"
#include "tests/support/folders.h"
#include "tests/support/loopback.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// Connects and says nothing.
class SilentConnections {
 public:
  explicit SilentConnections(const std::string& address)
      : to_(Loopback(PortOf(address))) {}
  ~SilentConnections() {
    for (int descriptor : descriptors_) close(descriptor);
  }
  // One more, of at most `keep` that this end has open.
  void Open(size_t keep) {
    const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    ASSERT_GE(descriptor, 0);
    connect(descriptor, reinterpret_cast<const sockaddr*>(&to_), sizeof(to_));
    descriptors_.push_back(descriptor);
    if (descriptors_.size() <= keep) return;
    close(descriptors_.front());
    descriptors_.erase(descriptors_.begin());
  }

 private:
  const sockaddr_in to_;
  std::vector<int> descriptors_;
};

double Metric(const ServerProcess& server, const char* name) {
  const auto page = FetchMetrics(server.metrics_address());
  return page.ok() ? page->Sum(name) : -1;
}

TEST(Connections, ThousandsThatAreSilentCostNobodyAnything) {
  ServerProcess server(
      {"--model", ZooModel(kInduction), "--drain-timeout", "2s"},
      StandardError::kKept, /*descriptors=*/1024);
  ASSERT_FALSE(server.grpc_address().empty()) << server.process().ErrorOutput();
  // A stream that was there before, read at times.
  const TestClient early(server.grpc_address());
  const auto stream = early.StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(stream->ReadStarted());

  SilentConnections silent(server.grpc_address());
  v1::GenerateResponse token;
  for (int i = 1; i <= 5000; ++i) {
    silent.Open(/*keep=*/900);
    if (i % 100 == 0) {
      ASSERT_TRUE(stream->Read(&token)) << i;
    }
    if (i % 1000 == 0) {
      const TestClient late(server.grpc_address());
      const Answer answer = late.Generate(TokenTurn("", {1, 2}, 2));
      EXPECT_TRUE(answer.status.ok()) << answer.status;
    }
  }
  // All came to be accepted, the limit held, and the stream goes on.
  EXPECT_TRUE(Eventually(
      [&] { return Metric(server, "connections_closed_for_room_total") > 0; }));
  EXPECT_LT(Metric(server, "connections"), 512);
  const TestClient late(server.grpc_address());
  EXPECT_TRUE(late.Generate(TokenTurn("", {1, 2}, 2)).status.ok());
  ASSERT_TRUE(stream->Read(&token));
  stream->Cancel();
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 0) << server.process().ErrorOutput();
}

TEST(Connections, AtTheLimitNewOnesWaitUntilACallEnds) {
  ServerOptions options = ZooOptions({kInduction});
  options.max_connections = 2;
  TestServer server(options);
  const TestClient& first = server.client();
  const TestClient second(server.address());
  const auto one = first.StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(one->ReadStarted());
  const auto two = second.StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(two->ReadStarted());
  const TestClient third(server.address());
  EXPECT_EQ(third.Generate(TokenTurn("", {1}, 1), absl::Milliseconds(300))
                .status.code(),
            absl::StatusCode::kDeadlineExceeded);
  // Those who are in go on.
  v1::GenerateResponse token;
  ASSERT_TRUE(one->Read(&token));
  one->Cancel();
  const TestClient fourth(server.address());
  EXPECT_TRUE(fourth.Generate(TokenTurn("", {1}, 1)).status.ok());
  ASSERT_TRUE(two->Read(&token));
}

TEST(Connections, OneWithoutACallIsClosedAfterItsTime) {
  ServerOptions options = ZooOptions({kInduction});
  options.max_connection_idle = absl::Milliseconds(50);
  TestServer server(options);
  EXPECT_TRUE(server.client().ListModels().ok());
  EXPECT_TRUE(
      Eventually([&] { return server.Metrics().Sum("connections") == 0; }));
  // The client connects anew by itself.
  EXPECT_TRUE(server.client().ListModels().ok());
}

TEST(Connections, AnOldOneIsClosedWhenItsCallIsOver) {
  ServerOptions options = ZooOptions({kInduction});
  options.max_connection_age = absl::Milliseconds(50);
  TestServer server(options);
  const auto conversation = server.client().Converse();
  const absl::Time old = absl::Now() + 2 * options.max_connection_age;
  v1::ConverseResponse response;
  do {
    ASSERT_TRUE(conversation->WriteTurn(TokenTurn("", {1}, 1)));
    while (!response.has_completed()) {
      ASSERT_TRUE(conversation->Read(&response));
    }
    response.Clear();
  } while (absl::Now() < old);
  EXPECT_EQ(server.Metrics().Sum("connections"), 1);
  conversation->WritesDone();
  EXPECT_FALSE(conversation->Read(&response));
  const absl::Status status = conversation->Finish();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(
      Eventually([&] { return server.Metrics().Sum("connections") == 0; }));
}

TEST(Connections, MoreThanDescriptorsAllowIsAClearError) {
  ChildProcess server(
      ProgramFile("bin/engram-server"),
      {"--model", ZooModel(kInduction), "--grpc-address", "127.0.0.1:0",
       "--metrics-address", "127.0.0.1:0", "--max-connections", "1000"},
      StandardError::kKept, /*descriptors=*/1024);
  EXPECT_EQ(server.Wait(), 1);
  EXPECT_THAT(server.ErrorOutput(), HasSubstr("--max-connections is 1000"));
  EXPECT_THAT(server.ErrorOutput(), HasSubstr("room for "));
}

}  // namespace
}  // namespace engram

// What tests of one server have in common: the server of each test, and threads
// of it that are busy with other clients' texts.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/support/test_server.h"

namespace engram {

// Every test has a server of its own.
class ServerFixture : public ::testing::Test {
 protected:
  explicit ServerFixture(const ServerOptions& options) : server_(options) {}

  const TestClient& client() const { return server_.client(); }

  TestServer server_;
};

// Of kInduction, with so many slots.
inline ServerOptions InductionOptions(int slots) {
  ServerOptions options = ZooOptions({kInduction});
  options.slots = slots;
  return options;
}

// Texts of other clients that keep every thread which reads long requests; more
// wait behind them.
class BusyReading {
 public:
  static constexpr int kTextsOfAClient = 4;

  BusyReading(const TestServer& server, int clients) {
    const v1::GenerateRequest turn = TurnThatIsReadForLong();
    for (int i = 0; i < clients; ++i) {
      clients_.push_back(std::make_unique<TestClient>(server.address()));
      for (int k = 0; k < kTextsOfAClient; ++k) {
        streams_.push_back(clients_.back()->StartGenerate(turn));
      }
    }
    EXPECT_TRUE(Eventually(
        [&] { return server.Metrics().Sum("long_requests_waiting") > 0; }));
  }

  const std::vector<std::unique_ptr<GenerateStream>>& streams() const {
    return streams_;
  }

 private:
  std::vector<std::unique_ptr<TestClient>> clients_;
  std::vector<std::unique_ptr<GenerateStream>> streams_;
};

}  // namespace engram

// The whole server on a device that fails, at its start or while it serves: it
// says so to everybody who waits, and ends for a restart.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/child_process.h"
#include "tests/integration/generic_call.h"
#include "tests/integration/standard_services.pb.h"
#include "tests/support/folders.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using testing::HealthRequest;
using testing::HealthResponse;

enum class End { kAtStart, kWhileServing, kNotFailed };

// What one server does whose `call`-th call of the device fails, with all after
// it.
End RunUntilCall(int64_t call) {
  setenv("FAILING_CALL", absl::StrCat(call).c_str(), /*overwrite=*/1);
  ServerProcess server({"--model", ZooModel(kInduction), "--slots", "2",
                        "--drain-timeout", "500ms"},
                       StandardError::kKept, RLIM_INFINITY,
                       ProgramFile("tests/faulty-server"));
  if (server.grpc_address().empty()) {
    EXPECT_EQ(server.process().Wait(), 1);
    EXPECT_THAT(server.process().ErrorOutput(),
                HasSubstr("the device is on fire"));
    return End::kAtStart;
  }
  GenericCall watch(server.grpc_address(), "/grpc.health.v1.Health/Watch");
  HealthResponse health;
  EXPECT_TRUE(watch.Write(HealthRequest()));
  EXPECT_TRUE(watch.Read(&health));
  const TestClient client(server.grpc_address());
  bool failed = false;
  for (int turn = 0; turn < 6 && !failed; ++turn) {
    const Answer answer = client.Generate(
        OnSession(TokenTurn("", {1, 2, 3}, 50), absl::StrCat("s", turn % 3)));
    EXPECT_TRUE(answer.in_order);
    EXPECT_EQ(answer.completed.has_value(), answer.status.ok());
    failed = !answer.status.ok();
    if (failed) {
      EXPECT_EQ(answer.status.code(), absl::StatusCode::kInternal)
          << answer.status;
      EXPECT_THAT(std::string(answer.status.message()),
                  HasSubstr("the device is on fire"));
    }
  }
  if (!failed) {
    server.process().Signal(SIGTERM);
    EXPECT_EQ(server.process().Wait(), 0);
    return End::kNotFailed;
  }
  EXPECT_TRUE(watch.Read(&health));
  EXPECT_EQ(health.status(), HealthResponse::NOT_SERVING);
  EXPECT_EQ(server.process().Wait(), 1);
  EXPECT_THAT(server.process().ErrorOutput(), HasSubstr("engine_failed"));
  return End::kWhileServing;
}

// Twice as late each time, so that at least one fails on the way from the last
// that did at the start to the first that did not at all.
TEST(FaultyDevice, EndsTheServerWithAnErrorWhereverItFails) {
  bool at_start = false, while_serving = false;
  for (int64_t call = 1; !::testing::Test::HasFailure(); call *= 2) {
    SCOPED_TRACE(absl::StrCat("call ", call));
    ASSERT_LT(call, 1 << 20);
    const End end = RunUntilCall(call);
    at_start = at_start || end == End::kAtStart;
    while_serving = while_serving || end == End::kWhileServing;
    if (end == End::kNotFailed) break;
  }
  EXPECT_TRUE(at_start);
  EXPECT_TRUE(while_serving);
}

}  // namespace
}  // namespace engram

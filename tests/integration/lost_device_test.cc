// The whole server on a device that is lost while it computes, by a fault of
// its own where it is a real one: who waits is told, and the process ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>

#include "tests/integration/child_process.h"
#include "tests/integration/generic_call.h"
#include "tests/integration/standard_services.pb.h"
#include "tests/support/folders.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::HealthRequest;
using testing::HealthResponse;

TEST(LostDevice, EndsStreamsHealthAndProcess) {
  // The server makes some steps at start, the stream thousands.
  setenv("LOST_BEHIND_STEP", "200", /*overwrite=*/1);
  ServerProcess server({"--model", ZooModel(kInduction), "--slots", "2",
                        "--drain-timeout", "500ms"},
                       StandardError::kKept, RLIM_INFINITY,
                       ProgramFile("tests/lost-device-server"));
  ASSERT_NE(server.grpc_address(), "") << server.process().ErrorOutput();
  GenericCall watch(server.grpc_address(), "/grpc.health.v1.Health/Watch");
  HealthResponse health;
  ASSERT_TRUE(watch.Write(HealthRequest()));
  ASSERT_TRUE(watch.Read(&health));
  EXPECT_EQ(health.status(), HealthResponse::SERVING);
  const TestClient client(server.grpc_address());
  const Answer answer = client.Generate(TokenTurn(kInduction, {1, 2, 3}, 5000));
  EXPECT_TRUE(answer.in_order);
  EXPECT_FALSE(answer.completed.has_value());
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kInternal) << answer.status;
  EXPECT_THAT(std::string(answer.status.message()),
              HasSubstr("cudaErrorIllegalAddress (700)"));
  EXPECT_TRUE(watch.Read(&health));
  EXPECT_EQ(health.status(), HealthResponse::NOT_SERVING);
  EXPECT_EQ(server.process().Wait(), 1);
  EXPECT_THAT(server.process().ErrorOutput(),
              AllOf(HasSubstr("engine_failed"),
                    HasSubstr("cudaErrorIllegalAddress (700)")));
}

}  // namespace
}  // namespace engram

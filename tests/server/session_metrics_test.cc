#include "server/session_metrics.h"

#include <prometheus/text_serializer.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_clock.h"
#include "tests/support/named.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

TEST(SessionMetrics, TellNothingBeforeThereIsAStore) {
  SessionMetrics metrics;
  metrics.AddModel("m");
  EXPECT_TRUE(metrics.Collect().empty());
}

TEST(SessionMetrics, TellWhatTheStoreCountsOfEachModel) {
  FakeClock clock;
  SessionStore sessions({}, &clock);
  SessionMetrics metrics;
  for (const std::string name : {"a", "b"}) {
    sessions.AddModel(name, {.state_bytes = 100});
    metrics.AddModel(name);
  }
  metrics.Watch(&sessions, sessions.limits().memory_bytes);
  NewSession session = {.name = Named("s"), .model = 1};
  ASSERT_TRUE(sessions.Create(session).ok());
  sessions.CountRestore(0);
  const std::string text =
      prometheus::TextSerializer().Serialize(metrics.Collect());
  EXPECT_THAT(text,
              HasSubstr("engram_sessions{model=\"a\",tier=\"none\"} 0\n"));
  EXPECT_THAT(text,
              HasSubstr("engram_sessions{model=\"b\",tier=\"none\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("engram_session_restores_total{model=\"a\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("engram_session_state_bytes{tier=\"departed\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("engram_session_evictions_total{from=\"slot\","
                              "model=\"b\",to=\"ram\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("engram_state_usage_ratio "));
}

}  // namespace
}  // namespace engram

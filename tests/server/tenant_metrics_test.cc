#include "server/tenant_metrics.h"

#include <prometheus/text_serializer.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_clock.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class TenantMetricsTest : public ::testing::Test {
 protected:
  TenantMetricsTest() : sessions_({}, &clock_) {
    sessions_.AddModel("m", {.state_bytes = 100});
    tenants_.Update({{"ann", {}}, {"bob", {}}, {"cid", {}}});
  }

  std::string Text() const {
    return prometheus::TextSerializer().Serialize(metrics_.Collect());
  }
  RequestSummary Ended(const std::string& tenant) const {
    RequestSummary request;
    request.tenant = tenants_.Find(tenant);
    request.usage.prompt_tokens = 3;
    request.usage.generated_tokens = 2;
    request.timing.prefill = absl::Milliseconds(1);
    return request;
  }

  FakeClock clock_;
  Tenants tenants_;
  SessionStore sessions_;
  TenantMetrics metrics_;
};

TEST_F(TenantMetricsTest, SayNothingWithoutKeys) {
  metrics_.Count(Ended(""));
  EXPECT_EQ(Text(), "");
}

TEST_F(TenantMetricsTest, CountWhatEachAsksFor) {
  metrics_.Watch(&tenants_, &sessions_, /*labels=*/100);
  metrics_.Count(Ended("ann"));
  RequestSummary refused = Ended("ann");
  refused.handling = RequestHandling::kRefused;
  refused.status = absl::ResourceExhaustedError("too many");
  metrics_.Count(refused);
  RequestSummary replayed = Ended("ann");
  replayed.handling = RequestHandling::kReplayed;
  metrics_.Count(replayed);
  RequestSummary queued = Ended("ann");
  queued.status = absl::CancelledError("the client left");
  queued.usage.generated_tokens = 0;
  queued.timing.prefill = absl::ZeroDuration();
  metrics_.Count(queued);
  const std::string text = Text();
  for (const char* line :
       {"engram_tenant_requests_total{code=\"OK\",tenant=\"ann\"} 2\n",
        "engram_tenant_requests_total{code=\"RESOURCE_EXHAUSTED\","
        "tenant=\"ann\"} 1\n",
        "engram_tenant_tokens_total{kind=\"prompt\",tenant=\"ann\"} 3\n",
        "engram_tenant_tokens_total{kind=\"generated\",tenant=\"ann\"} 2\n",
        // Each is there from the start.
        "engram_tenant_requests_total{code=\"OK\",tenant=\"bob\"} 0\n",
        "engram_tenant_requests_total{code=\"RESOURCE_EXHAUSTED\","
        "tenant=\"bob\"} 0\n",
        "engram_tenant_sessions{tenant=\"bob\"} 0\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST_F(TenantMetricsTest, TellWhatEachHas) {
  metrics_.Watch(&tenants_, &sessions_, /*labels=*/100);
  for (const char* id : {"a", "b"}) {
    ASSERT_TRUE(
        sessions_.Create({.name = SessionName(tenants_.Find("ann"), id)}).ok());
  }
  const auto place = TenantPlace::Take(tenants_.Find("ann"),
                                       /*prompt_tokens=*/1, clock_.Now());
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_THAT(Text(), HasSubstr("engram_tenant_streams{tenant=\"ann\"} 1\n"));
  EXPECT_THAT(Text(), HasSubstr("engram_tenant_streams{tenant=\"bob\"} 0\n"));
  EXPECT_THAT(Text(), HasSubstr("engram_tenant_sessions{tenant=\"ann\"} 2\n"));
  EXPECT_THAT(Text(),
              Not(HasSubstr("engram_tenant_session_bytes{tenant=\"ann\"} 0")));
  EXPECT_THAT(Text(),
              HasSubstr("engram_tenant_session_bytes{tenant=\"bob\"} 0\n"));
}

TEST_F(TenantMetricsTest, NameNoMoreThanTheyMay) {
  metrics_.Watch(&tenants_, &sessions_, /*labels=*/1);
  for (const char* tenant : {"ann", "bob", "cid"}) {
    metrics_.Count(Ended(tenant));
    ASSERT_TRUE(
        sessions_.Create({.name = SessionName(tenants_.Find(tenant), "a")})
            .ok());
  }
  const std::string text = Text();
  EXPECT_THAT(text, Not(HasSubstr("tenant=\"bob\"")));
  EXPECT_THAT(text, Not(HasSubstr("tenant=\"cid\"")));
  EXPECT_THAT(text, HasSubstr("engram_tenant_requests_total{code=\"OK\","
                              "tenant=\"other\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("engram_tenant_sessions{tenant=\"ann\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("engram_tenant_sessions{tenant=\"other\"} 2\n"));
}

}  // namespace
}  // namespace engram

#include "server/request_counter.h"

#include <prometheus/text_serializer.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

RequestSummary Ended(const std::string& finish_reason,
                     const absl::Status& status) {
  RequestSummary request;
  request.method = "Generate";
  request.finish_reason = finish_reason;
  request.status = status;
  return request;
}

class RequestCounterTest : public ::testing::Test {
 protected:
  std::string Text() const {
    return prometheus::TextSerializer().Serialize(registry_.Collect());
  }
  static std::string Line(const std::string& code,
                          const std::string& finish_reason, int count) {
    return "engram_requests_total{code=\"" + code + "\",finish_reason=\"" +
           finish_reason + "\",method=\"Generate\",model=\"m\"} " +
           std::to_string(count) + "\n";
  }

  prometheus::Registry registry_;
};

TEST_F(RequestCounterTest, TellsWhatIsKnownFromTheStart) {
  RequestCounter counter(&registry_, "m",
                         {{"Generate", "stop", absl::StatusCode::kOk}});
  EXPECT_THAT(Text(), HasSubstr(Line("OK", "stop", 0)));
}

TEST_F(RequestCounterTest, CountsByHowTheyEnded) {
  RequestCounter counter(&registry_, "m", {});
  counter.Count(Ended("stop", absl::OkStatus()));
  counter.Count(Ended("stop", absl::OkStatus()));
  counter.Count(Ended("", absl::UnavailableError("busy")));
  EXPECT_THAT(Text(), HasSubstr(Line("OK", "stop", 2)));
  EXPECT_THAT(Text(), HasSubstr(Line("UNAVAILABLE", "", 1)));
}

TEST_F(RequestCounterTest, CountsOnceHowATurnFinishedThatIsRepeated) {
  RequestCounter counter(&registry_, "m", {});
  RequestSummary replay = Ended("stop", absl::OkStatus());
  replay.handling = RequestHandling::kReplayed;
  counter.Count(replay);
  EXPECT_THAT(Text(), HasSubstr(Line("OK", "", 1)));
  EXPECT_THAT(Text(), Not(HasSubstr("stop")));
}

}  // namespace
}  // namespace engram

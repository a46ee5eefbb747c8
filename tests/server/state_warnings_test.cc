#include "server/state_warnings.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

StateSummary WithShareAbove(double share) {
  StateSummary summary;
  summary.layer = 3;
  summary.state = "ssm_state";
  summary.share_above = share;
  return summary;
}

TEST(StateWarnings, SaysNothingOfWhatIsUsual) {
  EXPECT_THAT(StateWarnings({WithShareAbove(0.13)}, 100, 100), IsEmpty());
  EXPECT_THAT(StateWarnings({WithShareAbove(0.13)}, 1'000'000, 0), IsEmpty());
}

TEST(StateWarnings, TellsThatTheModelHasNeverBeenThisFar) {
  EXPECT_THAT(
      StateWarnings({}, 101, 100),
      ElementsAre("the session has read 101 tokens, 1.01 times the longest "
                  "text that the model was trained on (100): it has never "
                  "been this far"));
}

TEST(StateWarnings, TellsWhichStateFewValuesHold) {
  EXPECT_THAT(
      StateWarnings({WithShareAbove(0.1), WithShareAbove(0.25)}, 1, 0),
      ElementsAre("layer 3: 25.0 % of ssm_state are above 10 times its "
                  "median: few values hold most of it, and what is written "
                  "beside them is lost"));
}

}  // namespace
}  // namespace engram

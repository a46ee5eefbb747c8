#include "server/serving_phase.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(ServingPhase, IsReadyOnlyWhileItServes) {
  EXPECT_EQ(ReadyPage(ServingPhase::kLoading).status, 503);
  EXPECT_EQ(ReadyPage(ServingPhase::kServing).status, 200);
  EXPECT_EQ(ReadyPage(ServingPhase::kDraining).status, 503);
  EXPECT_EQ(ReadyPage(ServingPhase::kFailed).status, 503);
  EXPECT_EQ(ReadyPage(ServingPhase::kDraining).body, "draining\n");
}

TEST(ServingPhase, IsHealthyUntilOnlyARestartHelps) {
  EXPECT_EQ(HealthPage(ServingPhase::kLoading).status, 200);
  EXPECT_EQ(HealthPage(ServingPhase::kServing).status, 200);
  EXPECT_EQ(HealthPage(ServingPhase::kDraining).status, 200);
  EXPECT_EQ(HealthPage(ServingPhase::kFailed).status, 503);
  EXPECT_EQ(HealthPage(ServingPhase::kFailed).body, "failed\n");
}

}  // namespace
}  // namespace engram

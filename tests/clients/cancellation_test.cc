#include "clients/cpp/cancellation.h"

#include <gtest/gtest.h>

namespace engram::client {
namespace {

TEST(Cancellation, RunsWhatIsRegisteredOnce) {
  Cancellation cancellation;
  int stops = 0;
  cancellation.Register([&] { ++stops; });
  EXPECT_FALSE(cancellation.cancelled());
  cancellation.Cancel();
  cancellation.Cancel();
  EXPECT_TRUE(cancellation.cancelled());
  EXPECT_EQ(stops, 1);
}

TEST(Cancellation, RunsAtOnceWhatIsRegisteredLate) {
  Cancellation cancellation;
  cancellation.Cancel();
  int stops = 0;
  cancellation.Register([&] { ++stops; });
  EXPECT_EQ(stops, 1);
}

TEST(Cancellation, DoesNotRunWhatWasUnregistered) {
  Cancellation cancellation;
  int stops = 0;
  cancellation.Unregister(cancellation.Register([&] { ++stops; }));
  cancellation.Cancel();
  EXPECT_EQ(stops, 0);
}

}  // namespace
}  // namespace engram::client

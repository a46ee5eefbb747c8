#include "server/device_choice.h"

#include <optional>

#include "gtest/gtest.h"

namespace engram {
namespace {

constexpr DeviceRoom kFull = {.empty_slots = 0, .slots = 0};

TEST(ChooseDevice, TakesTheOneWithTheMostSlotsThatHoldNothing) {
  EXPECT_EQ(ChooseDevice({{.empty_slots = 1, .slots = 4},
                          {.empty_slots = 3, .slots = 3},
                          {.empty_slots = 2, .slots = 4}},
                         std::nullopt),
            1);
}

TEST(ChooseDevice, TakesTheLeastBusyWhereAllHoldStates) {
  EXPECT_EQ(ChooseDevice({{.empty_slots = -1, .slots = 2},
                          {.empty_slots = -3, .slots = 3}},
                         std::nullopt),
            1);
  EXPECT_EQ(ChooseDevice({{.empty_slots = -9, .slots = -9},
                          {.empty_slots = -8, .slots = -8}},
                         std::nullopt),
            1)
      << "fewer wait";
}

TEST(ChooseDevice, TakesTheFirstOfThoseThatAreAlike) {
  EXPECT_EQ(ChooseDevice({kFull, kFull}, std::nullopt), 0);
}

TEST(ChooseDevice, StaysWhereTheStateIsAsLongAsThereIsRoom) {
  const DeviceRoom empty = {.empty_slots = 4, .slots = 4};
  EXPECT_EQ(ChooseDevice({empty, {.empty_slots = 0, .slots = 1}}, 1), 1);
  EXPECT_EQ(ChooseDevice({empty, kFull}, 1), 0);
  EXPECT_EQ(ChooseDevice({{.empty_slots = -1, .slots = 1}, kFull}, 1), 0)
      << "there it can run, though another state has to make way";
}

TEST(ChooseDevice, StaysWhereTheStateIsIfThereIsRoomNowhere) {
  EXPECT_EQ(ChooseDevice({kFull, {.empty_slots = -2, .slots = -2}}, 1), 1);
}

TEST(ChooseDevice, TakesOneThatIsClosedOnlyIfAllAre) {
  const DeviceRoom closed = {.is_open = false, .empty_slots = 4, .slots = 4};
  EXPECT_EQ(ChooseDevice({closed, kFull}, std::nullopt), 1);
  EXPECT_EQ(ChooseDevice({closed, kFull}, 0), 1);
  EXPECT_EQ(ChooseDevice({closed, closed}, 1), 0);
}

}  // namespace
}  // namespace engram

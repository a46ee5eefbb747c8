#include "server/remembered_turns.h"

#include <cstdint>
#include <optional>

#include "gtest/gtest.h"

namespace engram {
namespace {

TEST(RememberedTurns, KnowsEveryTurnByItsVersion) {
  RememberedTurns turns;
  EXPECT_EQ(turns.Find(1), std::nullopt);
  for (uint64_t i = 1; i <= 1000; ++i) turns.Add(i * 7, 1000);
  for (uint64_t i = 1; i <= 1000; ++i) EXPECT_EQ(turns.Find(i * 7), i);
  EXPECT_EQ(turns.Find(8), std::nullopt);
  EXPECT_EQ(turns.forgotten(), 0);
}

TEST(RememberedTurns, ForgetsTheOldestAndSaysSo) {
  for (const int64_t begin : {0, 40}) {
    RememberedTurns turns(begin);
    for (int64_t i = 1; i <= 100; ++i) {
      turns.Add(i, 7);
      EXPECT_EQ(turns.forgotten(), i <= 7 ? 0 : begin + i - 7) << i;
      for (int64_t j = 1; j <= i; ++j) {
        const auto version =
            j > i - 7 ? std::optional<int64_t>(begin + j) : std::nullopt;
        EXPECT_EQ(turns.Find(j), version) << i << " " << j;
      }
    }
  }
}

TEST(RememberedTurns, TakeEightBytesEachAndALittle) {
  RememberedTurns turns;
  EXPECT_EQ(turns.bytes(), 0);
  turns.Add(1, 65536);
  EXPECT_LE(turns.bytes(), 48);
  for (int i = 0; i < 65535; ++i) turns.Add(i, 65536);
  EXPECT_LE(turns.bytes(), 65536 * 8 * 5 / 4 + 64);
}

TEST(RememberedTurns, AreNeverMoreThanTheirLimit) {
  RememberedTurns turns;
  for (int i = 0; i < 1000; ++i) turns.Add(i, 100);
  EXPECT_LE(turns.bytes(), 100 * 8 + 16);
}

}  // namespace
}  // namespace engram

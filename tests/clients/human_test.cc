#include "clients/cpp/human.h"

#include <gtest/gtest.h>

#include <limits>

namespace engram::client {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

TEST(Ago, IsRoughAndShort) {
  EXPECT_EQ(Ago(kNow, kNow), "now");
  EXPECT_EQ(Ago(kNow - absl::Milliseconds(999), kNow), "now");
  EXPECT_EQ(Ago(kNow - absl::Seconds(59), kNow), "59s ago");
  EXPECT_EQ(Ago(kNow - absl::Seconds(60), kNow), "1m ago");
  EXPECT_EQ(Ago(kNow - absl::Minutes(119), kNow), "1h ago");
  EXPECT_EQ(Ago(kNow - absl::Hours(47), kNow), "47h ago");
  EXPECT_EQ(Ago(kNow - absl::Hours(48), kNow), "2d ago");
  EXPECT_EQ(Ago(kNow - absl::Hours(24 * 365 * 3), kNow), "3y ago");
  EXPECT_EQ(Ago(kNow + absl::Hours(1), kNow), "now");
}

TEST(Until, IsRoughAndShort) {
  EXPECT_EQ(Until(kNow + absl::Seconds(1), kNow), "in 1s");
  EXPECT_EQ(Until(kNow + absl::Hours(24), kNow), "in 24h");
  EXPECT_EQ(Until(kNow + absl::Hours(876'600), kNow), "in 100y");
  EXPECT_EQ(Until(kNow - absl::Hours(1), kNow), "now");
  EXPECT_EQ(Until(absl::InfiniteFuture(), kNow), "never");
}

TEST(Bytes, HasAtMostEightCharacters) {
  EXPECT_EQ(Bytes(0), "0 B");
  EXPECT_EQ(Bytes(999), "999 B");
  EXPECT_EQ(Bytes(1000), "1.0 KiB");
  EXPECT_EQ(Bytes(1024 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(Bytes(2'936'012), "2.8 MiB");
  EXPECT_EQ(Bytes(int64_t{20} << 30), "20 GiB");
  EXPECT_EQ(Bytes(std::numeric_limits<int64_t>::max()), "8 EiB");
  for (int64_t bytes = 1; bytes < std::numeric_limits<int64_t>::max() / 3;
       bytes += bytes / 7 + 1) {
    EXPECT_LE(Bytes(bytes).size(), 8u) << bytes;
  }
}

TEST(Rate, HasThreeDigits) {
  EXPECT_EQ(Rate(0, "B/s"), "0 B/s");
  EXPECT_EQ(Rate(512, "B/s"), "512 B/s");
  EXPECT_EQ(Rate(2'811'000'000, "B/s"), "2.81 GB/s");
  EXPECT_EQ(Rate(1.5e15, "FLOP/s"), "1.5e+03 TFLOP/s");
}

TEST(Shortened, KeepsBeginningAndEnd) {
  EXPECT_EQ(Shortened("short", 5), "short");
  EXPECT_EQ(Shortened("0123456789", 9), "012...789");
  EXPECT_EQ(Shortened("0123456789abcdef", 8), "012...ef");
}

}  // namespace
}  // namespace engram::client

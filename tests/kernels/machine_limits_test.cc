#include "kernels/cpu/machine_limits.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace engram::cpu {
namespace {

TEST(MachineLimits, MultiplyAddsAreFasterThanOneAtATime) {
  ThreadPool one(1);
  absl::Time begin = absl::Now();
  const auto operations = static_cast<double>(MultiplyAndAdd(&one));
  const double rate = operations / absl::ToDoubleSeconds(absl::Now() - begin);
  // No processor has a thread that does more.
  EXPECT_LT(rate, 1e12);

  // Each waits for the one before it.
  volatile float factor = 0.5f;
  const float half = factor;
  float value = 1;
  constexpr int64_t kCount = 10'000'000;
  begin = absl::Now();
  for (int64_t i = 0; i < kCount; ++i) value = value * half + 1;
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  EXPECT_LE(value, 2);
  EXPECT_GT(rate, 2 * 2 * kCount / seconds);
}

TEST(MachineLimits, EachThreadMultipliesAsOften) {
  ThreadPool one(1), three(3);
  EXPECT_EQ(MultiplyAndAdd(&three), 3 * MultiplyAndAdd(&one));
}

// Whether it fills whole vectors or not. What is no number is found.
TEST(MachineLimitsDeathTest, ReadAllOfTheMemory) {
  for (const int64_t floats : {1, 23, 24, 25, 1000, 6143, 100'000}) {
    std::vector<float> memory(floats, 1.0f);
    ThreadPool one(1);
    ReadMemory(memory, &one);
    for (const int64_t place : {int64_t{0}, floats / 3, floats - 1}) {
      memory[place] = NAN;
      EXPECT_DEATH(ReadMemory(memory, &one), "isfinite")
          << place << " of " << floats;
      memory[place] = 1;
    }
  }
}

TEST(MachineLimits, NameTheInstructionsThatKernelsUse) {
  EXPECT_FALSE(InstructionSet().empty());
}

}  // namespace
}  // namespace engram::cpu

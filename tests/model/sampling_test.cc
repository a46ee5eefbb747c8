#include "model/sampling.h"

#include <limits>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(Validate, AcceptsTheLimits) {
  EXPECT_TRUE(Validate({}, 10).ok());
  EXPECT_TRUE(Validate({.temperature = 100,
                        .top_k = 1 << 30,
                        .top_p = 1e-6f,
                        .min_p = 1,
                        .repetition_penalty = 100,
                        .presence_penalty = -100,
                        .frequency_penalty = 100,
                        .logit_bias = {{0, -100.0f}, {9, 100.0f}}},
                       10)
                  .ok());
}

TEST(Validate, NamesTheFieldTheValueAndTheLimits) {
  const absl::Status status = Validate({.top_p = 1.5}, 10);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "top_p is 1.5, must be in (0, 1]");
  EXPECT_EQ(Validate({.logit_bias = {{10, 1.0f}}}, 10).message(),
            "logit_bias has id 10, must be in [0, 9]");
}

TEST(Validate, RefusesWhatIsOutOfRangeOrNotANumber) {
  const std::map<const char*, std::vector<SamplingParameters>> refused = {
      {"temperature",
       {{.temperature = -1}, {.temperature = 101}, {.temperature = kNan}}},
      {"top_k", {{.top_k = -1}}},
      {"top_p", {{.top_p = 0}, {.top_p = 1.01}, {.top_p = kNan}}},
      {"min_p", {{.min_p = -0.1}, {.min_p = 1.1}, {.min_p = kNan}}},
      {"repetition_penalty",
       {{.repetition_penalty = 0},
        {.repetition_penalty = kInfinity},
        {.repetition_penalty = kNan}}},
      {"presence_penalty",
       {{.presence_penalty = 101}, {.presence_penalty = kNan}}},
      {"frequency_penalty",
       {{.frequency_penalty = -101}, {.frequency_penalty = kNan}}},
      {"logit_bias",
       {{.logit_bias = {{-1, 0.0f}}},
        {.logit_bias = {{1, 101.0f}}},
        {.logit_bias = {{1, kNan}}}}}};
  for (const auto& [field, cases] : refused) {
    for (const SamplingParameters& parameters : cases) {
      const absl::Status status = Validate(parameters, 10);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
      EXPECT_THAT(status.message(), HasSubstr(field));
    }
  }
}

}  // namespace
}  // namespace engram

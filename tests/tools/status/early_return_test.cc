#include "tools/status/early_return.h"

#include <gtest/gtest.h>

#include <memory>

namespace engram {
namespace {

absl::StatusOr<std::unique_ptr<int>> Half(int number) {
  if (number % 2 != 0) return absl::InvalidArgumentError("odd");
  return std::make_unique<int>(number / 2);
}

absl::Status Quarter(int number, int* quarter) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<int> half, Half(number));
  std::unique_ptr<int> result;
  ENGRAM_ASSIGN_OR_RETURN(result, Half(*half));
  *quarter = *result;
  return absl::OkStatus();
}

absl::StatusOr<int> Eighth(int number) {
  int quarter = 0;
  if (number > 0) ENGRAM_RETURN_IF_ERROR(Quarter(number, &quarter));
  return quarter / 2;
}

TEST(EarlyReturn, GoesOnWithTheValue) {
  int quarter = 0;
  EXPECT_TRUE(Quarter(12, &quarter).ok());
  EXPECT_EQ(quarter, 3);
  EXPECT_EQ(Eighth(16).value(), 2);
  EXPECT_EQ(Eighth(0).value(), 0);
}

TEST(EarlyReturn, EndsTheFunctionWithTheError) {
  int quarter = 7;
  EXPECT_EQ(Quarter(3, &quarter), absl::InvalidArgumentError("odd"));
  EXPECT_EQ(Quarter(6, &quarter), absl::InvalidArgumentError("odd"));
  EXPECT_EQ(quarter, 7);
  EXPECT_EQ(Eighth(6).status(), absl::InvalidArgumentError("odd"));
}

}  // namespace
}  // namespace engram

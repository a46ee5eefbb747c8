#include "server/byte_budget.h"

#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace engram {
namespace {

TEST(ByteBudget, GivesNoMoreThanItHas) {
  ByteBudget budget(10);
  std::optional<ByteBudget::Share> first = budget.Take(6);
  ASSERT_TRUE(first.has_value());
  EXPECT_FALSE(budget.Take(5).has_value());
  std::optional<ByteBudget::Share> second = budget.Take(4);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(budget.taken(), 10);
  first.reset();
  EXPECT_EQ(budget.taken(), 4);
  EXPECT_TRUE(budget.Take(6).has_value());
  EXPECT_FALSE(budget.Take(~size_t{0}).has_value());
}

TEST(ByteBudget, GetsEveryShareBackOnce) {
  ByteBudget budget(10);
  {
    ByteBudget::Share kept;
    {
      ByteBudget::Share share = *budget.Take(3);
      kept = std::move(share);
    }
    EXPECT_EQ(budget.taken(), 3);
    kept = *budget.Take(5);
    ByteBudget::Share moved(std::move(kept));
    EXPECT_EQ(budget.taken(), 5);
  }
  EXPECT_EQ(budget.taken(), 0);
}

TEST(ByteBudget, MayGoBeforeItsShares) {
  std::optional<ByteBudget> budget(10);
  const std::optional<ByteBudget::Share> share = budget->Take(3);
  budget.reset();
}

TEST(ByteBudget, IsNeverOverdrawnByManyAtOnce) {
  ByteBudget budget(100);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 10000; ++j) {
        const auto share = budget.Take(40);
        EXPECT_LE(budget.taken(), 100);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(budget.taken(), 0);
}

}  // namespace
}  // namespace engram

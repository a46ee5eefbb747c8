#include "kernels/cpu/thread_pool.h"

#include <atomic>
#include <cstdint>
#include <latch>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram::cpu {
namespace {

using ::testing::Each;

// Wakes the threads at once.
constexpr int64_t kMuch = ThreadPool::kWorthWakingNs;

TEST(ThreadPool, CallsEveryItemOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int items : {0, 1, 2, 3, 100, 1000}) {
      // Plain ints: two calls for one item would be a race, and so would a
      // return before all calls have returned.
      std::vector<int> calls(items, 0);
      pool.ParallelFor(items, kMuch, [&](int64_t item) { ++calls[item]; });
      EXPECT_THAT(calls, Each(1));
    }
  }
}

TEST(ThreadPool, RunsOneItemOnTheCaller) {
  ThreadPool pool(3);
  std::thread::id thread;
  pool.ParallelFor(1, kMuch,
                   [&](int64_t) { thread = std::this_thread::get_id(); });
  EXPECT_EQ(thread, std::this_thread::get_id());
}

TEST(ThreadPool, RunsWorkTooSmallToGainOnTheCaller) {
  ThreadPool pool(3);
  const std::thread::id caller = std::this_thread::get_id();
  for (int repetition = 0; repetition < 100; ++repetition) {
    // Awake, and looking for work.
    std::latch both(2);
    pool.ParallelFor(2, kMuch, [&](int64_t) { both.arrive_and_wait(); });
    pool.ParallelFor(10, ThreadPool::kWorthSharingNs - 1, [&](int64_t) {
      EXPECT_EQ(std::this_thread::get_id(), caller);
    });
  }
}

// No thread is woken by the first of many operations, but they are by all.
TEST(ThreadPool, WakesItsThreadsOnceEnoughWasDoneWithoutThem) {
  ThreadPool pool(2);
  std::atomic<bool> helped = false;
  const std::thread::id caller = std::this_thread::get_id();
  while (!helped) {
    pool.ParallelFor(2, ThreadPool::kWorthSharingNs, [&](int64_t) {
      if (std::this_thread::get_id() != caller) helped = true;
    });
  }
}

TEST(ThreadPool, SurvivesManyRoundsInQuickSuccession) {
  ThreadPool pool(4);
  int64_t plain_sum = 0;
  std::vector<int64_t> partial(8);
  for (int round = 0; round < 20000; ++round) {
    pool.ParallelFor(8, kMuch, [&](int64_t item) { partial[item] += item; });
    plain_sum += partial[7];  // what the round wrote is visible here
  }
  EXPECT_EQ(partial[7], 7 * 20000);
  EXPECT_EQ(plain_sum, int64_t{7} * 20000 * 20001 / 2);
}

// Each item waits for the other, so a thread of the pool has to join.
TEST(ThreadPool, WakesItsThreads) {
  ThreadPool pool(2);
  for (int repetition = 0; repetition < 3; ++repetition) {
    std::latch both(2);
    pool.ParallelFor(2, kMuch, [&](int64_t) { both.arrive_and_wait(); });
  }
}

TEST(ThreadPool, ServesMoreCallersAtOnceThanItCanHelp) {
  ThreadPool pool(3);
  constexpr int kCallers = 12;
  std::vector<std::vector<int>> calls(kCallers, std::vector<int>(50, 0));
  std::vector<std::thread> callers;
  for (std::vector<int>& counts : calls) {
    callers.emplace_back([&pool, &counts] {
      for (int round = 0; round < 2000; ++round) {
        pool.ParallelFor(50, kMuch,
                         [&counts](int64_t item) { ++counts[item]; });
        // All have been called when it returns, and none twice.
        ASSERT_THAT(counts, Each(round + 1));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// The pool's only thread is in the middle of one call when another comes.
TEST(ThreadPool, ACallerDoesNotWaitForTheCallOfAnother) {
  ThreadPool pool(2);
  std::latch joined(2), other_done(1);
  std::thread one([&] {
    pool.ParallelFor(2, kMuch, [&](int64_t) {
      joined.arrive_and_wait();  // the caller and the pool's thread
      other_done.wait();
    });
  });
  joined.wait();
  int calls = 0;
  pool.ParallelFor(10, kMuch, [&](int64_t) { ++calls; });
  EXPECT_EQ(calls, 10);
  other_done.count_down();
  one.join();
}

TEST(ThreadPool, HelpsTheNextCallerWhenOneIsDone) {
  ThreadPool pool(2);
  for (int repetition = 0; repetition < 3; ++repetition) {
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 2; ++caller) {
      callers.emplace_back([&pool] {
        std::latch both(2);
        pool.ParallelFor(2, kMuch, [&](int64_t) { both.arrive_and_wait(); });
      });
    }
    for (std::thread& caller : callers) caller.join();
  }
}

TEST(ThreadPool, EndsWithoutHavingWorked) {
  for (int repetition = 0; repetition < 50; ++repetition) ThreadPool pool(3);
}

}  // namespace
}  // namespace engram::cpu

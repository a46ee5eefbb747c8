#include "server/text_threads.h"

#include <latch>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

constexpr size_t kLong = 1 << 20;

TEST(TextThreads, RunsAShortTextInTheCallersThread) {
  TextThreads texts(1, 1);
  std::thread::id ran;
  EXPECT_TRUE(texts.Run(100, [&] { ran = std::this_thread::get_id(); }).ok());
  EXPECT_EQ(ran, std::this_thread::get_id());
}

TEST(TextThreads, RunsALongTextElsewhere) {
  TextThreads texts(1, 1);
  std::thread::id ran;
  std::latch done(1);
  EXPECT_TRUE(texts
                  .Run(kLong,
                       [&] {
                         ran = std::this_thread::get_id();
                         done.count_down();
                       })
                  .ok());
  done.wait();
  EXPECT_NE(ran, std::this_thread::get_id());
}

TEST(TextThreads, RefusesWhenTheQueueIsFull) {
  TextThreads texts(1, 2);
  std::latch begun(1), may_end(1);
  EXPECT_TRUE(texts
                  .Run(kLong,
                       [&] {
                         begun.count_down();
                         may_end.wait();
                       })
                  .ok());
  begun.wait();
  EXPECT_TRUE(texts.Run(kLong, [] {}).ok());
  EXPECT_TRUE(texts.Run(kLong, [] {}).ok());
  const absl::Status refused = texts.Run(kLong, [] { ADD_FAILURE(); });
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.message()),
              testing::HasSubstr("2 long texts wait to be tokenised, limit 2"));
  may_end.count_down();
}

TEST(TextThreads, RunsWhatIsQueuedBeforeItEnds) {
  absl::Mutex mutex;
  std::vector<int> ran;
  {
    TextThreads texts(1, 100);
    for (int i = 0; i < 100; ++i) {
      EXPECT_TRUE(texts
                      .Run(kLong,
                           [&, i] {
                             absl::MutexLock lock(&mutex);
                             ran.push_back(i);
                           })
                      .ok());
    }
  }
  ASSERT_EQ(ran.size(), 100);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(ran[i], i);
}

}  // namespace
}  // namespace engram

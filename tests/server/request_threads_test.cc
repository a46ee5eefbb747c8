#include "server/request_threads.h"

#include <latch>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/named.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr size_t kLong = 1 << 20;

// What was called, with what. Outlives the threads that may still call it.
class Record {
 public:
  RequestThreads::Work Named(const std::string& name) {
    return [this, name](const absl::Status& status) {
      absl::MutexLock lock(&mutex_);
      done_.push_back(status.ok() ? name : name + "!");
      last_ = status;
    };
  }
  std::vector<std::string> done() const {
    absl::MutexLock lock(&mutex_);
    return done_;
  }
  absl::Status last() const {
    absl::MutexLock lock(&mutex_);
    return last_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<std::string> done_;
  absl::Status last_;
};

// Work that keeps a thread, from its construction on and until it is told to
// end.
class Busy {
 public:
  Busy(RequestThreads* threads, const std::string& client) {
    threads->Run(client, kLong, [this](const absl::Status&) {
      begun_.count_down();
      may_end_.wait();
      ended_.count_down();
    });
    begun_.wait();
  }
  ~Busy() {
    if (!may_end_.try_wait()) End();
    ended_.wait();
  }
  void End() { may_end_.count_down(); }

 private:
  std::latch begun_{1}, may_end_{1}, ended_{1};
};

RequestThreadsLimits OneThread(size_t max_queue = 100) {
  return {.threads = 1, .max_queue = max_queue, .max_bytes = 100 * kLong};
}

TEST(RequestThreads, ReadsAShortRequestInTheCallersThread) {
  RequestThreads threads(OneThread());
  std::thread::id ran;
  EXPECT_EQ(threads.Run("a", 100,
                        [&](const absl::Status& status) {
                          EXPECT_TRUE(status.ok());
                          ran = std::this_thread::get_id();
                        }),
            0u);
  EXPECT_EQ(ran, std::this_thread::get_id());
}

TEST(RequestThreads, ReadsALongRequestElsewhere) {
  std::thread::id ran;
  std::latch done(1);
  RequestThreads threads(OneThread());
  threads.Run("a", kLong, [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok());
    ran = std::this_thread::get_id();
    done.count_down();
  });
  done.wait();
  EXPECT_NE(ran, std::this_thread::get_id());
}

TEST(RequestThreads, ClientsTakeTurnsWhateverEachHasQueued) {
  Record record;
  {
    std::latch last(1);
    RequestThreads threads(OneThread());
    Busy busy(&threads, "x");
    for (const char* name : {"a1", "a2", "a3", "a4"}) {
      threads.Run("a", kLong, record.Named(name));
    }
    threads.Run("b", kLong, record.Named("b1"));
    threads.Run("b", kLong, record.Named("b2"));
    threads.Run("c", kLong, record.Named("c1"));
    threads.Run("a", kLong, [&](const absl::Status&) { last.count_down(); });
    busy.End();
    last.wait();
  }
  EXPECT_THAT(record.done(),
              ElementsAre("a1", "b1", "c1", "a2", "b2", "a3", "a4"));
}

TEST(RequestThreads, OneClientKeepsAThreadFreeForOthers) {
  Record record;
  std::latch done(1);
  RequestThreads threads(
      {.threads = 2, .max_queue = 100, .max_bytes = 100 * kLong});
  Busy first(&threads, "a");
  threads.Run("a", kLong, record.Named("a2"));
  threads.Run("b", kLong, [&](const absl::Status&) { done.count_down(); });
  done.wait();
  EXPECT_TRUE(record.done().empty());
  EXPECT_EQ(threads.waiting(), 1);
}

TEST(RequestThreads, RefusesWhenTheQueueIsFull) {
  Record record;
  RequestThreads threads(OneThread(/*max_queue=*/2));
  Busy busy(&threads, "x");
  threads.Run("a", kLong, record.Named("a"));
  threads.Run("b", kLong, record.Named("b"));
  EXPECT_EQ(threads.Run("c", kLong, record.Named("c")), 0u);
  EXPECT_THAT(record.done(), ElementsAre("c!"));
  EXPECT_EQ(record.last().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(record.last().message()),
              HasSubstr("2 long requests wait to be read, limit 2"));
}

TEST(RequestThreads, OneClientHasHalfOfTheQueue) {
  Record record;
  RequestThreads threads(OneThread(/*max_queue=*/4));
  Busy busy(&threads, "x");
  for (const char* name : {"a1", "a2", "a3"}) {
    threads.Run("a", kLong, record.Named(name));
  }
  EXPECT_THAT(record.done(), ElementsAre("a3!"));
  EXPECT_THAT(std::string(record.last().message()),
              AllOf(HasSubstr("2 long requests of this connection"),
                    HasSubstr("limit 2 (half of --max-queue)")));
  threads.Run("b", kLong, record.Named("b"));
  EXPECT_EQ(threads.waiting(), 3);
}

TEST(RequestThreads, RefusesMoreBytesThanMayWait) {
  Record record;
  RequestThreads threads(
      {.threads = 1, .max_queue = 100, .max_bytes = 4 * kLong});
  Busy busy(&threads, "x");
  threads.Run("a", 2 * kLong, record.Named("a1"));
  threads.Run("a", kLong, record.Named("a2"));
  EXPECT_THAT(record.done(), ElementsAre("a2!"));
  EXPECT_THAT(std::string(record.last().message()),
              AllOf(HasSubstr("3145728 bytes"), HasSubstr("limit 2097152"),
                    HasSubstr("--max-queue-bytes")));
  threads.Run("b", 2 * kLong + 1, record.Named("b1"));
  EXPECT_THAT(record.done(), ElementsAre("a2!", "b1!"));
  EXPECT_THAT(std::string(record.last().message()),
              AllOf(HasSubstr("4194305 bytes"), HasSubstr("limit 4194304")));
  threads.Run("b", 2 * kLong, record.Named("b2"));
  EXPECT_EQ(threads.waiting(), 2);
}

TEST(RequestThreads, DropsWhatIsWithdrawn) {
  Record record;
  {
    std::latch last(1);
    RequestThreads threads(OneThread());
    Busy busy(&threads, "x");
    const uint64_t ticket = threads.Run("a", kLong, record.Named("a1"));
    threads.Run("a", kLong, [&](const absl::Status&) { last.count_down(); });
    threads.Withdraw(ticket, absl::CancelledError("gone"));
    EXPECT_THAT(record.done(), ElementsAre("a1!"));
    EXPECT_EQ(record.last(), absl::CancelledError("gone"));
    EXPECT_EQ(threads.waiting(), 1);
    threads.Withdraw(ticket, absl::CancelledError("again"));
    busy.End();
    last.wait();
  }
  EXPECT_THAT(record.done(), ElementsAre("a1!"));
}

TEST(RequestThreads, EndsAtOnceWhatWaitsWhenItIsClosed) {
  Record record;
  RequestThreads threads(OneThread());
  Busy busy(&threads, "x");
  for (int i = 0; i < 3; ++i) threads.Run("a", kLong, record.Named("a"));
  EXPECT_TRUE(threads.closed().ok());
  threads.Close("closed by a test");
  EXPECT_THAT(record.done(), ElementsAre("a!", "a!", "a!"));
  EXPECT_EQ(record.last(), absl::UnavailableError("closed by a test"));
  EXPECT_EQ(threads.closed(), record.last());
  threads.Run("b", 1, record.Named("short"));
  threads.Run("b", kLong, record.Named("long"));
  EXPECT_THAT(record.done(), ElementsAre("a!", "a!", "a!", "short", "long!"));
}

TEST(RequestThreads, EndsWhatWaitsWhenItGoesAway) {
  Record record;
  std::latch begun(1);
  {
    RequestThreads threads(OneThread());
    threads.Run("x", kLong, [&](const absl::Status& status) {
      begun.count_down();
      // Until the destructor has ended what waits.
      while (threads.closed().ok()) {
      }
      record.Named("x")(status);
    });
    begun.wait();
    for (const char* name : {"a", "b"}) {
      threads.Run(name, kLong, record.Named(name));
    }
  }
  EXPECT_THAT(record.done(), UnorderedElementsAre("x", "a!", "b!"));
}

TEST(RequestWork, IsDroppedWhereItWaitsWhenItIsCancelled) {
  Record record;
  RequestThreads threads(OneThread());
  Busy busy(&threads, "x");
  RequestWork work(&threads);
  work.Start("a", kLong, record.Named("a"));
  EXPECT_TRUE(work.MayGoOn().ok());
  work.Cancel(absl::CancelledError("gone"));
  work.Cancel(absl::CancelledError("again"));
  EXPECT_THAT(record.done(), ElementsAre("a!"));
  EXPECT_EQ(work.MayGoOn(), absl::CancelledError("gone"));
  EXPECT_EQ(threads.waiting(), 0);
}

TEST(RequestWork, IsDroppedIfItWasCancelledBeforeItStarted) {
  Record record;
  RequestThreads threads(OneThread());
  Busy busy(&threads, "x");
  RequestWork work(&threads);
  work.Cancel(absl::CancelledError("gone"));
  work.Start("a", kLong, record.Named("a"));
  EXPECT_THAT(record.done(), ElementsAre("a!"));
}

TEST(RequestWork, IsToldToEndWhereItRuns) {
  std::latch begun(1), ended(1);
  RequestThreads threads(OneThread());
  RequestWork work(&threads);
  work.Start("a", kLong, [&](const absl::Status&) {
    begun.count_down();
    while (work.MayGoOn().ok()) {
    }
    ended.count_down();
  });
  begun.wait();
  work.Cancel(absl::CancelledError("gone"));
  ended.wait();
}

TEST(RequestWork, IsToldToEndWhenTheThreadsAreClosed) {
  RequestThreads threads(OneThread());
  RequestWork work(&threads);
  threads.Close("closed by a test");
  EXPECT_EQ(work.MayGoOn(), absl::UnavailableError("closed by a test"));
}

}  // namespace
}  // namespace engram

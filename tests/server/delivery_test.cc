#include "server/delivery.h"

#include <functional>
#include <latch>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

// Readers by name, and who of them was told, in order. Outlives the delivery.
class Readers {
 public:
  // `then` is called when it is told.
  std::shared_ptr<TokenStream> Add(
      const std::string& name, std::function<void()> then = [] {}) {
    auto stream = std::make_shared<TokenStream>(8, [] {});
    stream->SetReady([this, name, then = std::move(then)] {
      then();
      absl::MutexLock lock(&mutex_);
      told_.push_back(name);
    });
    return stream;
  }

  std::vector<std::string> told() const {
    absl::MutexLock lock(&mutex_);
    return told_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<std::string> told_ ABSL_GUARDED_BY(mutex_);
};

TEST(DeliveryTest, WithoutThreadsTellsAtOnce) {
  Readers readers;
  Delivery delivery(0);
  delivery.Add({readers.Add("a"), readers.Add("b")});
  EXPECT_THAT(readers.told(), ElementsAre("a", "b"));
  EXPECT_FALSE(delivery.TellNext());
}

TEST(DeliveryTest, ByHandTellsOneAfterTheOtherInOrder) {
  Readers readers;
  Delivery delivery{Delivery::ByHand()};
  delivery.Add({readers.Add("a"), readers.Add("b")});
  delivery.Add({readers.Add("c")});
  EXPECT_THAT(readers.told(), IsEmpty());
  EXPECT_TRUE(delivery.TellNext());
  EXPECT_THAT(readers.told(), ElementsAre("a"));
  EXPECT_TRUE(delivery.TellNext());
  EXPECT_TRUE(delivery.TellNext());
  EXPECT_FALSE(delivery.TellNext());
  EXPECT_THAT(readers.told(), ElementsAre("a", "b", "c"));
}

TEST(DeliveryTest, AReaderThatTakesLongDoesNotHoldUpWhoAdds) {
  Readers readers;
  absl::Notification added;
  Delivery delivery(1);
  delivery.Add({readers.Add("a", [&] { added.WaitForNotification(); })});
  delivery.Add({readers.Add("b")});
  EXPECT_THAT(readers.told(), IsEmpty());
  added.Notify();
  delivery.Finish();
  EXPECT_THAT(readers.told(), ElementsAre("a", "b"));
}

TEST(DeliveryTest, SeveralThreadsTellSeveralReadersAtATime) {
  Readers readers;
  std::latch both(2);
  Delivery delivery(2);
  delivery.Add({readers.Add("a", [&] { both.arrive_and_wait(); }),
                readers.Add("b", [&] { both.arrive_and_wait(); })});
  delivery.Finish();
  EXPECT_THAT(readers.told(), UnorderedElementsAre("a", "b"));
}

TEST(DeliveryTest, TellsAllWhoAreLeftAtItsEnd) {
  Readers readers;
  absl::Notification ending;
  {
    Delivery delivery(1);
    delivery.Add({readers.Add("a", [&] { ending.WaitForNotification(); }),
                  readers.Add("b"), readers.Add("c")});
    ending.Notify();
  }
  EXPECT_THAT(readers.told(), ElementsAre("a", "b", "c"));
}

TEST(DeliveryTest, ByHandTellsAllWhoAreLeftAtItsEnd) {
  Readers readers;
  { Delivery{Delivery::ByHand()}.Add({readers.Add("a")}); }
  EXPECT_THAT(readers.told(), ElementsAre("a"));
}

}  // namespace
}  // namespace engram

// What the store counts is what the heap grows by, whatever clients make it
// keep.
#include <malloc.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/session_store.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kOwnHeap = true;
#else
constexpr bool kOwnHeap = false;
#endif

class SessionLedger : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kOwnHeap) GTEST_SKIP() << "a sanitizer has a heap of its own";
    limits_.memory_bytes = size_t{1} << 40;
    limits_.time_to_live = absl::Hours(1);
    store_ = std::make_unique<SessionStore>(limits_, &clock_);
    store_->AddModel("m", {.state_bytes = 10000});
  }

  // Within a third, either way.
  void ExpectCounted(const std::function<void()>& keep) {
    const size_t heap = mallinfo2().uordblks;
    keep();
    const auto grown = static_cast<double>(mallinfo2().uordblks - heap);
    const SessionCounts counts = store_->Counts();
    const auto counted =
        static_cast<double>(counts.ram_bytes + counts.departed_bytes);
    EXPECT_LE(grown, 1.3 * counted);
    EXPECT_GE(grown, counted / 1.3);
    EXPECT_EQ(counts.ram_bytes, counts.models[0].own_bytes);
  }

  void RunTurn(const std::string& id, const std::string& request_id,
               TurnRecord record = {}) {
    CommitTurn(store_.get(), TestEngine::Turn(id, request_id, {1}, 1),
               /*slot=*/0, std::move(record));
    store_->ReleasedSlots(0);
  }

  static std::string LongId(int i) {
    const std::string number = absl::StrCat(i);
    return std::string(128 - number.size(), 'x') + number;
  }

  FakeClock clock_;
  SessionLimits limits_;
  std::unique_ptr<SessionStore> store_;
};

TEST_F(SessionLedger, CountsPlainSessions) {
  ExpectCounted([&] {
    for (int i = 0; i < 5000; ++i) {
      ASSERT_TRUE(store_->Create(EmptySession(absl::StrCat("s", i))).ok());
    }
  });
}

TEST_F(SessionLedger, CountsLabelsAndLongIds) {
  ExpectCounted([&] {
    for (int i = 0; i < 1000; ++i) {
      NewSession session = EmptySession(LongId(i));
      for (int label = 0; label < 32; ++label) {
        session.labels[absl::StrCat(std::string(62, 'k'), 10 + label)] =
            std::string(256, 'v');
      }
      ASSERT_TRUE(store_->Create(std::move(session)).ok());
    }
  });
}

TEST_F(SessionLedger, CountsTheIdsOfAllTurns) {
  // So much that what the heap keeps at hand of freed pieces, some 200 KB, is
  // no part of it.
  ExpectCounted([&] {
    for (int turn = 0; turn < 200000; ++turn) {
      RunTurn(absl::StrCat("s", turn % 200), LongId(turn));
    }
  });
}

TEST_F(SessionLedger, CountsAnswersThatAreKeptForRepeats) {
  ExpectCounted([&] {
    for (int i = 0; i < 200; ++i) {
      TurnRecord record;
      record.started.session_id = LongId(i);
      record.started.request_id = LongId(i);
      record.tokens.assign(500, 7);
      record.logprobs.assign(500, 0.5f);
      record.top.assign(500 * 20, LogProbability{});
      RunTurn(LongId(i), LongId(i), std::move(record));
    }
  });
}

TEST_F(SessionLedger, CountsTheDeparted) {
  ExpectCounted([&] {
    for (int i = 0; i < 5000; ++i) RunTurn(LongId(i), "r");
    clock_.Advance(absl::Hours(2));
    while (!store_->Sweep()) {
    }
    EXPECT_EQ(store_->Counts().ram_bytes, 0);
  });
}

}  // namespace
}  // namespace engram

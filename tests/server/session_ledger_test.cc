// What the store counts is what the heap grows by, whatever clients make it
// keep.
#include "server/session_ledger.h"

#include <malloc.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/session.h"
#include "server/session_store.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"
#include "tests/support/sanitizers.h"

namespace engram {
namespace {

class SessionLedgerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer has a heap of its own";
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

TEST_F(SessionLedgerTest, CountsPlainSessions) {
  ExpectCounted([&] {
    for (int i = 0; i < 5000; ++i) {
      ASSERT_TRUE(store_->Create(EmptySession(absl::StrCat("s", i))).ok());
    }
  });
}

TEST_F(SessionLedgerTest, CountsLabelsAndLongIds) {
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

TEST_F(SessionLedgerTest, CountsTheIdsOfAllTurns) {
  // So much that what the heap keeps at hand of freed pieces, some 200 KB, is
  // no part of it.
  ExpectCounted([&] {
    for (int turn = 0; turn < 200000; ++turn) {
      RunTurn(absl::StrCat("s", turn % 200), LongId(turn));
    }
  });
}

TEST_F(SessionLedgerTest, CountsAnswersThatAreKeptForRepeats) {
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

TEST_F(SessionLedgerTest, CountsTheDeparted) {
  ExpectCounted([&] {
    for (int i = 0; i < 5000; ++i) RunTurn(LongId(i), "r");
    clock_.Advance(absl::Hours(2));
    while (!store_->Sweep()) {
    }
    EXPECT_EQ(store_->Counts().ram_bytes, 0);
  });
}

// --- By itself.

constexpr size_t kStateBytes = 1000;

Session WithBlock(std::shared_ptr<const StateBlock> block) {
  Session session(Named("s"));
  session.labels = std::make_shared<const SessionLabels>();
  session.turns.position = 1;
  session.block = std::move(block);
  return session;
}

TEST(SessionLedgerAlone, CountsABlockOnceHoweverManyHoldIt) {
  SessionLedger ledger(/*memory_bytes=*/100000);
  ledger.AddModel({.state_bytes = kStateBytes});
  const auto block = MakeBlock(kStateBytes);
  EXPECT_EQ(ledger.BytesToHold(block.get()), block->bytes());
  EXPECT_EQ(ledger.BytesToHold(nullptr), 0);
  Session one = WithBlock(block);
  Session other = WithBlock(block);
  ledger.Count(&one);
  EXPECT_EQ(ledger.BytesToHold(block.get()), 0);
  ledger.Count(&other);
  EXPECT_EQ(ledger.Counts().ram_bytes,
            one.own_bytes() + other.own_bytes() + block->bytes());
  EXPECT_EQ(ledger.Counts().models[0].sessions_in_ram, 2);
  EXPECT_EQ(ledger.Counts().models[0].state_bytes_in_ram, kStateBytes);
  ledger.Discount(&one);
  EXPECT_EQ(ledger.Counts().ram_bytes, other.own_bytes() + block->bytes());
  ledger.Discount(&other);
  EXPECT_EQ(ledger.Counts().ram_bytes, 0);
  EXPECT_EQ(ledger.Counts().models[0].sessions_in_ram, 0);
}

TEST(SessionLedgerAlone, SetsApartNoMoreThanThereIs) {
  SessionLedger ledger(/*memory_bytes=*/5 * kStateBytes);
  ledger.AddModel({.state_bytes = kStateBytes});
  std::vector<Session> sessions(6, WithBlock(nullptr));
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(ledger.Reserve(&sessions[i]));
  // A fifth may be parked; a second one would be more than a quarter.
  EXPECT_TRUE(ledger.HoldForParked(kStateBytes));
  EXPECT_FALSE(ledger.HoldForParked(kStateBytes));
  EXPECT_FALSE(ledger.Reserve(&sessions[4]));
  EXPECT_EQ(ledger.Counts().parked_bytes, kStateBytes);
  EXPECT_EQ(ledger.Counts().ram_bytes, kStateBytes);
  ledger.EndReservation(&sessions[0]);
  EXPECT_TRUE(ledger.Reserve(&sessions[4]));
  EXPECT_FALSE(ledger.Reserve(&sessions[5]));
  ledger.ReleaseParked(kStateBytes);
  EXPECT_TRUE(ledger.Reserve(&sessions[5]));
  EXPECT_EQ(ledger.Counts().ram_bytes, 0);
}

TEST(SessionLedgerAlone, TellsWhatFitsNowAndWhatEverCould) {
  SessionLedger ledger(/*memory_bytes=*/4 * kStateBytes);
  ledger.AddModel({.state_bytes = kStateBytes});
  ASSERT_TRUE(ledger.HoldForParked(kStateBytes));
  EXPECT_TRUE(ledger.Fits(3 * kStateBytes));
  EXPECT_FALSE(ledger.Fits(3 * kStateBytes + 1));
  EXPECT_TRUE(ledger.CouldFit(4 * kStateBytes));
  EXPECT_FALSE(ledger.CouldFit(4 * kStateBytes + 1));
}

}  // namespace
}  // namespace engram

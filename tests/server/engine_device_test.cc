// A device that fails while states are moved: whichever copy it is, every
// stream ends once, sessions keep what was committed, and nobody is let in.
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "server/engine.h"
#include "tests/server/test_engine.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/named.h"

namespace engram {
namespace {

constexpr int kSessions = 5;

// Two slots for five sessions whose turns yield to each other: their states are
// copied, cleared, saved and restored.
class EngineOnAFaultyDevice {
 public:
  explicit EngineOnAFaultyDevice(bool has_attention)
      : inner_(std::move(MakeBackend({BackendKind::kCpu, 1}).value())),
        backend_(inner_.get()) {
    TestEngineOptions options;
    options.model.slots = 2;
    options.model.kv_bytes = size_t{1} << 16;
    options.has_attention = has_attention;
    options.engine.steps_in_a_slot = 1;
    options.backend = &backend_;
    engine_ = std::make_unique<TestEngine>(options);
    for (int i = 0; i < kSessions; ++i) {
      EXPECT_TRUE(engine_->Run(TurnOf(i, 1)).status().ok());
    }
  }

  // Second turns of all sessions, and a copy of the first's state. True if the
  // device did not fail in it.
  bool Run(int64_t failing_call) {
    backend_.FailFrom(failing_call);
    std::vector<Reader> readers;
    for (int i = 0; i < kSessions && !backend_.has_failed(); ++i) {
      readers.push_back(engine_->Submit(TurnOf(i, 2)));
      engine_->engine.RunOnce();
    }
    int copies = 0;
    engine_->engine.TakeSnapshot(*engine_->sessions.Find(Named("s0")),
                                 [&](const auto&) { ++copies; });
    engine_->RunUntilIdle();
    EXPECT_EQ(engine_->engine.running() + engine_->engine.parked(), 0);
    const bool failed = backend_.has_failed();
    if (failed) {
      EXPECT_EQ(engine_->engine.Run().code(), absl::StatusCode::kInternal);
      EXPECT_EQ(engine_->Refusal(TestEngine::Generate({1}, 1)).code(),
                absl::StatusCode::kUnavailable);
    }
    EXPECT_EQ(copies, 1);
    for (Reader& reader : readers) {
      reader.Read();
      EXPECT_TRUE(reader.ended());
      EXPECT_TRUE(
          reader.status().ok() ||
          (failed && reader.status().code() == absl::StatusCode::kInternal))
          << reader.status();
    }
    EXPECT_EQ(engine_->ended.size(), kSessions + readers.size());
    engine_->ExpectNoSlotLost();
    backend_.FailFrom(int64_t{1} << 40);
    for (int i = 0; i < kSessions; ++i) ExpectCommittedState(i);
    return !failed;
  }

 private:
  static Request TurnOf(int session, int turn) {
    Request request =
        TestEngine::Turn(absl::StrCat("s", session), absl::StrCat("r", turn),
                         Tokens(turn == 1 ? 30 + session : 3, 1 + session), 4);
    request.priority = turn == 1 ? 0 : session % 3;
    return request;
  }

  // The state is that of the tokens of the turns that were committed, as a
  // model says that is fed them by itself.
  void ExpectCommittedState(int session) {
    SCOPED_TRACE(testing::Message() << "session " << session);
    const absl::StatusOr<SessionHandle> handle =
        engine_->sessions.Find(Named(absl::StrCat("s", session)));
    ASSERT_TRUE(handle.ok());
    const auto snapshot = engine_->StateOf(*handle);
    ASSERT_TRUE(snapshot.ok()) << snapshot.status();
    Tokens tokens;
    for (int turn = 1; turn <= snapshot->turns.version; ++turn) {
      const Request request = TurnOf(session, turn);
      const ExpectedAnswer answer = engine_->Expect(tokens, request);
      tokens.insert(tokens.end(), request.prompt.begin(), request.prompt.end());
      tokens.insert(tokens.end(), answer.tokens.begin(), answer.tokens.end());
    }
    tokens.pop_back();  // pending
    ASSERT_EQ(snapshot->turns.position, static_cast<int64_t>(tokens.size()));
    ScriptedModel probe(&engine_->script,
                        {.slots = 1,
                         .max_batch_tokens = 256,
                         .max_logits_rows = 1,
                         .kv_bytes = size_t{1} << 16},
                        engine_->options.has_attention);
    const int slot = probe.states().Take();
    BatchRow row;
    row.slot = slot;
    row.tokens = tokens;
    ASSERT_TRUE(probe.Begin(Batch{{row}}).ok());
    ASSERT_TRUE(probe.Finish().ok());
    std::string expected(probe.states().bytes(slot), '?');
    ENGRAM_CHECK_OK(probe.states().Save(slot, expected.data()));
    ASSERT_NE(snapshot->block, nullptr);
    EXPECT_TRUE(
        std::string(reinterpret_cast<const char*>(snapshot->block->data()),
                    snapshot->block->size()) == expected);
  }

  const std::unique_ptr<Backend> inner_;
  FaultyBackend backend_;
  std::unique_ptr<TestEngine> engine_;
};

TEST(EngineDevice, LosesNothingWhicheverCopyFails) {
  for (const bool has_attention : {false, true}) {
    for (int64_t call = 1;; ++call) {
      SCOPED_TRACE(testing::Message() << "call " << call);
      ASSERT_LT(call, 10000);
      if (EngineOnAFaultyDevice(has_attention).Run(call)) break;
      if (testing::Test::HasFailure()) return;
    }
  }
}

TEST(EngineDevice, EndsWhatIsOverdueOnlyOnceIfACopyFails) {
  const std::unique_ptr<Backend> inner =
      std::move(MakeBackend({BackendKind::kCpu, 1}).value());
  FaultyBackend backend(inner.get());
  TestEngineOptions options;
  options.backend = &backend;
  TestEngine engine(options);
  ASSERT_TRUE(engine.Run(TestEngine::Turn("s", "r", {1}, 1)).status().ok());
  Request request = TestEngine::Turn("t", "r", {1}, 9);
  request.deadline = engine.clock.Now() + absl::Seconds(1);
  Reader reader = engine.Submit(request);
  engine.engine.RunOnce();
  ASSERT_EQ(engine.engine.running(), 1);

  engine.clock.Advance(absl::Seconds(1));
  backend.FailFrom(1);
  absl::Status copied;
  engine.engine.TakeSnapshot(
      *engine.sessions.Find(Named("s")),
      [&](const auto& snapshot) { copied = snapshot.status(); });
  engine.engine.RunOnce();
  EXPECT_EQ(copied.code(), absl::StatusCode::kInternal);
  reader.Read();
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(engine.ended.size(), 2);
}

}  // namespace
}  // namespace engram

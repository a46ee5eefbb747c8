#include "server/turn_checks.h"

#include <memory>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/request_identity.h"
#include "server/session.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using Code = absl::StatusCode;

// A session that remembers its last two turns, of three: "r2" and "r3", of
// which the last is on record.
class TurnChecksTest : public ::testing::Test {
 protected:
  TurnChecksTest() {
    limits_.remembered_turns = 2;
    session_.use = 1;
    session_.turns.version = 3;
    session_.turns.position = 3;
    for (const std::string id : {"r1", "r2", "r3"}) {
      session_.remembered.Add(ShortDigest(id), limits_.remembered_turns);
    }
    auto record = std::make_shared<TurnRecord>();
    record->request_id = "r3";
    session_.record = std::move(record);
  }

  // A turn that may run unless something is changed.
  static Request Turn(const std::string& request_id) {
    Request request = TestEngine::Turn("a", request_id, {1}, 1);
    request.expected_version = 3;
    return request;
  }
  absl::StatusOr<std::shared_ptr<const TurnRecord>> Check(
      const Request& request) const {
    return CheckTurnOf(session_, request, ShortDigest(request.request_id),
                       capacity_, limits_);
  }
  Code CodeOf(const Request& request) const {
    return Check(request).status().code();
  }

  SessionLimits limits_;
  ModelCapacity capacity_;
  Session session_{Named("a")};
};

TEST_F(TurnChecksTest, LetANewRequestRun) {
  const auto checked = Check(Turn("r4"));
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(*checked, nullptr);
}

TEST_F(TurnChecksTest, FindTheRecordWhateverElseTheRequestSays) {
  session_.running = true;
  Request request = Turn("r3");
  request.expected_version = 0;
  const auto checked = Check(request);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(*checked, session_.record);
}

TEST_F(TurnChecksTest, RefuseAnotherRequestOfTheSameId) {
  Request request = Turn("r3");
  request.identity[0] ^= 1;
  EXPECT_EQ(CodeOf(request), Code::kInvalidArgument);
}

TEST_F(TurnChecksTest, TellOfAnOlderTurnThatItHasCommitted) {
  session_.running = true;
  const absl::Status status = Check(Turn("r2")).status();
  EXPECT_EQ(status.code(), Code::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), HasSubstr("as version 2"));
}

TEST_F(TurnChecksTest, RunNothingThatMayHaveBeenForgotten) {
  session_.running = true;
  Request request = Turn("r1");
  request.expected_version.reset();
  EXPECT_EQ(CodeOf(request), Code::kFailedPrecondition);
}

TEST_F(TurnChecksTest, TellOfARunningTurnBeforeTheVersion) {
  Request request = Turn("r4");
  request.expected_version = 2;
  EXPECT_EQ(CodeOf(request), Code::kFailedPrecondition);
  session_.running = true;
  EXPECT_EQ(CodeOf(request), Code::kAborted);
}

TEST_F(TurnChecksTest, StartOnlyWhatIsNewFromACheckpoint) {
  Request request = Turn("r4");
  request.from_checkpoint = "c";
  EXPECT_EQ(CodeOf(request), Code::kFailedPrecondition);
  // A session that was made for it has no version of its own yet.
  session_.use = 0;
  EXPECT_EQ(CodeOf(request), Code::kFailedPrecondition);
  request.expected_version = 0;
  EXPECT_EQ(CodeOf(request), Code::kOk);
}

TEST_F(TurnChecksTest, WantAPromptOrAPendingToken) {
  Request request = Turn("r4");
  request.prompt.clear();
  EXPECT_EQ(CodeOf(request), Code::kInvalidArgument);
  session_.turns.pending = 7;
  EXPECT_TRUE(Check(request).ok());
}

TEST_F(TurnChecksTest, RefuseWhatGrowsBeyondTheModelOrTheMemory) {
  capacity_.max_positions = 4;
  Request request = Turn("r4");
  request.stopping.max_tokens = 1;
  EXPECT_TRUE(Check(request).ok());
  request.prompt = {1, 2};
  EXPECT_EQ(CodeOf(request), Code::kInvalidArgument);
  // Of keys and values RAM holds fewer.
  capacity_ = {.state_bytes = 0, .kv_block_bytes = 4096, .kv_blocks = 10};
  limits_.memory_bytes = 4096 + 1024;
  EXPECT_TRUE(Check(request).ok());
  request.prompt = Tokens(60, 1);
  const absl::Status status = Check(request).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--session-memory"));
}

}  // namespace
}  // namespace engram

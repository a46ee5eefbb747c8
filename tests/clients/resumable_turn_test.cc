// What is sent again after a stream broke, and what the caller sees of the
// answers, without gRPC.
#include "clients/cpp/resumable_turn.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "absl/strings/cord.h"

namespace engram::client {
namespace {

using ::google::protobuf::util::MessageDifferencer;
using ::testing::MatchesRegex;

using Next = ResumableTurn::Next;

const absl::Status kGone = absl::UnavailableError("going down");

v1::GenerateRequest Request(const std::string& session_id) {
  v1::GenerateRequest request;
  request.set_session_id(session_id);
  request.set_text("prompt");
  return request;
}

v1::GenerateResponse Started(const std::string& request_id, uint64_t seed) {
  v1::GenerateResponse response;
  response.mutable_started()->set_request_id(request_id);
  response.mutable_started()->set_seed(seed);
  return response;
}

v1::GenerateResponse Token(int index) {
  v1::GenerateResponse response;
  response.mutable_token()->set_index(index);
  response.mutable_token()->set_id(100 + index);
  return response;
}

v1::GenerateResponse Completed() {
  v1::GenerateResponse response;
  response.mutable_completed();
  return response;
}

// Whether the caller is to see it.
bool IsFresh(ResumableTurn* turn, const v1::GenerateResponse& response) {
  bool fresh = false;
  const absl::Status status = turn->Receive(response, &fresh);
  EXPECT_TRUE(status.ok()) << status;
  return fresh;
}

TEST(ResumableTurn, SendsTheRequestAsItWasGiven) {
  v1::GenerateRequest request = Request("");
  ResumableTurn alone(request, /*retries=*/3);
  EXPECT_TRUE(MessageDifferencer::Equals(alone.StartStream(), request));
  request = Request("session");
  request.set_request_id("mine");
  ResumableTurn turn(request, /*retries=*/3);
  EXPECT_TRUE(MessageDifferencer::Equals(turn.StartStream(), request));
}

TEST(ResumableTurn, GivesATurnOnASessionAnIdOfItsOwn) {
  ResumableTurn one(Request("session"), /*retries=*/3);
  ResumableTurn other(Request("session"), /*retries=*/3);
  EXPECT_THAT(one.StartStream().request_id(), MatchesRegex("[0-9a-f]{32}"));
  EXPECT_NE(one.StartStream().request_id(), other.StartStream().request_id());
}

TEST(ResumableTurn, ARepeatTellsWhatHasCome) {
  ResumableTurn turn(Request("session"), /*retries=*/3);
  v1::GenerateRequest expected = turn.StartStream();
  EXPECT_TRUE(IsFresh(&turn, Started("id", 7)));
  EXPECT_TRUE(IsFresh(&turn, Token(0)));
  EXPECT_TRUE(IsFresh(&turn, Token(1)));
  EXPECT_EQ(turn.StreamEnded(kGone), Next::kRepeat);
  expected.add_received_token_ids(100);
  expected.add_received_token_ids(101);
  // Nothing else: what Started tells would make it another request.
  EXPECT_TRUE(MessageDifferencer::Equals(turn.StartStream(), expected));
}

TEST(ResumableTurn, WithoutASessionARepeatHasTheSeedOfTheFirst) {
  ResumableTurn turn(Request(""), /*retries=*/3);
  turn.StartStream();
  EXPECT_TRUE(IsFresh(&turn, Started("theirs", 7)));
  EXPECT_EQ(turn.StreamEnded(kGone), Next::kRepeat);
  EXPECT_EQ(turn.StartStream().sampling().seed(), 7u);
  EXPECT_EQ(turn.StartStream().request_id(), "theirs");
  EXPECT_FALSE(IsFresh(&turn, Started("another", 8)));
  EXPECT_EQ(turn.StartStream().sampling().seed(), 7u);
}

TEST(ResumableTurn, ShowsEachMessageOnce) {
  ResumableTurn turn(Request("session"), /*retries=*/3);
  turn.StartStream();
  EXPECT_TRUE(IsFresh(&turn, Started("id", 7)));
  EXPECT_TRUE(IsFresh(&turn, Token(0)));
  EXPECT_EQ(turn.StreamEnded(kGone), Next::kRepeat);
  turn.StartStream();
  EXPECT_FALSE(IsFresh(&turn, Started("id", 7)));
  EXPECT_FALSE(IsFresh(&turn, Token(0)));
  EXPECT_TRUE(IsFresh(&turn, Token(1)));
  EXPECT_TRUE(IsFresh(&turn, Completed()));
  EXPECT_FALSE(IsFresh(&turn, Completed()));
  EXPECT_FALSE(IsFresh(&turn, v1::GenerateResponse()));
}

TEST(ResumableTurn, NoticesATokenThatWasLeftOut) {
  ResumableTurn turn(Request("session"), /*retries=*/3);
  turn.StartStream();
  EXPECT_TRUE(IsFresh(&turn, Token(0)));
  bool fresh = true;
  const absl::Status status = turn.Receive(Token(2), &fresh);
  EXPECT_EQ(status, absl::InternalError(
                        "the server sent token 2 where token 1 comes next"));
  EXPECT_FALSE(fresh);
  EXPECT_EQ(turn.StreamEnded(status), Next::kFail);
  EXPECT_EQ(turn.result(), status);
}

TEST(ResumableTurn, IsDoneOnceItIsCommittedHoweverTheStreamEnds) {
  ResumableTurn turn(Request("session"), /*retries=*/3);
  turn.StartStream();
  EXPECT_TRUE(IsFresh(&turn, Completed()));
  EXPECT_EQ(turn.StreamEnded(kGone), Next::kDone);
}

TEST(ResumableTurn, AnAnswerWithoutAnEndIsAnError) {
  ResumableTurn turn(Request("session"), /*retries=*/3);
  turn.StartStream();
  EXPECT_TRUE(IsFresh(&turn, Token(0)));
  EXPECT_EQ(turn.StreamEnded(absl::OkStatus()), Next::kFail);
  EXPECT_EQ(turn.result().code(), absl::StatusCode::kInternal);
}

TEST(ResumableTurn, GivesUpAfterRepeatsThatBroughtNothing) {
  ResumableTurn turn(Request("session"), /*retries=*/2);
  absl::Status busy = kGone;
  busy.SetPayload("key", absl::Cord("value"));
  for (int i = 0; i < 2; ++i) {
    turn.StartStream();
    EXPECT_EQ(turn.StreamEnded(busy), Next::kRepeat);
    EXPECT_EQ(turn.result(), busy);
  }
  turn.StartStream();
  EXPECT_EQ(turn.StreamEnded(busy), Next::kFail);
  EXPECT_EQ(turn.result().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(turn.result().message(), "going down (gave up after 2 repeats)");
  EXPECT_EQ(turn.result().GetPayload("key"), absl::Cord("value"));
}

TEST(ResumableTurn, CountsRepeatsAnewAfterEveryToken) {
  ResumableTurn turn(Request("session"), /*retries=*/1);
  for (int i = 0; i < 5; ++i) {
    turn.StartStream();
    EXPECT_FALSE(turn.made_progress());
    EXPECT_TRUE(IsFresh(&turn, Token(i)));
    EXPECT_TRUE(turn.made_progress());
    EXPECT_EQ(turn.StreamEnded(kGone), Next::kRepeat);
  }
  turn.StartStream();
  EXPECT_EQ(turn.StreamEnded(kGone), Next::kFail);
}

TEST(ResumableTurn, WithoutRetriesTheErrorIsTheServersOwn) {
  ResumableTurn turn(Request("session"), /*retries=*/0);
  turn.StartStream();
  EXPECT_EQ(turn.StreamEnded(kGone), Next::kFail);
  EXPECT_EQ(turn.result(), kGone);
}

TEST(ResumableTurn, WaitsForItsOwnBrokenCallButForNobodyElses) {
  const absl::Status running = absl::AbortedError("a turn is running");
  ResumableTurn first(Request("session"), /*retries=*/3);
  first.StartStream();
  EXPECT_EQ(first.StreamEnded(running), Next::kFail);

  ResumableTurn broken(Request("session"), /*retries=*/3);
  broken.StartStream();
  EXPECT_EQ(broken.StreamEnded(kGone), Next::kRepeat);
  broken.StartStream();
  EXPECT_EQ(broken.StreamEnded(running), Next::kRepeat);
}

TEST(ResumableTurn, GoesOnWhereItWasReadTooSlowly) {
  const absl::Status slow = absl::ResourceExhaustedError("read too slowly");
  ResumableTurn turn(Request("session"), /*retries=*/3);
  turn.StartStream();
  EXPECT_TRUE(IsFresh(&turn, Token(0)));
  EXPECT_EQ(turn.StreamEnded(slow), Next::kRepeat);
  // Without a token in between, it is a limit that a repeat would meet again.
  turn.StartStream();
  EXPECT_EQ(turn.StreamEnded(slow), Next::kFail);
}

TEST(ResumableTurn, KnowsABrokenConnectionByItsWords) {
  EXPECT_TRUE(IsTransportFailure(kGone));
  EXPECT_TRUE(IsTransportFailure(
      absl::InternalError("Received RST_STREAM with error code 2")));
  EXPECT_TRUE(IsTransportFailure(absl::UnknownError("Stream removed")));
  EXPECT_FALSE(IsTransportFailure(absl::InternalError("not finite")));
  EXPECT_FALSE(IsTransportFailure(absl::AbortedError("a turn is running")));
}

}  // namespace
}  // namespace engram::client

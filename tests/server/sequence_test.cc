// What a sequence has to feed, what ends it, and who goes first.
#include "server/sequence.h"

#include <memory>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

// A request without memory whose client has these tokens of its answer.
Request Resumed(Tokens prompt, Tokens received, int64_t max_tokens) {
  Request request = TestEngine::Generate(std::move(prompt), max_tokens);
  request.received = std::move(received);
  return request;
}

class SequenceTest : public ::testing::Test {
 protected:
  Sequence Make(Request request) const {
    return Sequence(std::move(request), tokenizer_.get(),
                    std::make_shared<TokenStream>(16, [] {}));
  }

  const std::unique_ptr<Tokenizer> tokenizer_ = MakeByteTokenizer();
};

// --- What is fed.

TEST_F(SequenceTest, FeedsThePendingTokenThenPromptThenWhatWasReceived) {
  Sequence sequence = Make(Resumed({1, 2}, {3, 4}, 5));
  sequence.start.pending = 9;
  ASSERT_TRUE(ReadReceived(&sequence).ok());
  Prepare(&sequence, kByteTokenizerIds);
  EXPECT_THAT(sequence.to_feed, ElementsAre(9, 1, 2, 3, 4));
  EXPECT_EQ(sequence.remaining(), 5u);
  sequence.fed = 3;
  EXPECT_EQ(sequence.remaining(), 2u);
}

TEST_F(SequenceTest, HasSeenWhatItsSessionHasAndWhatItFeeds) {
  Sequence sequence = Make(Resumed({1}, {3}, 5));
  auto seen = std::make_shared<TokenSet>(kByteTokenizerIds);
  seen->Insert(7);
  sequence.start.seen = seen;
  sequence.start.pending = 8;
  ASSERT_TRUE(ReadReceived(&sequence).ok());
  Prepare(&sequence, kByteTokenizerIds);
  Tokens members;
  sequence.seen.ForEach([&](int32_t id) { members.push_back(id); });
  EXPECT_THAT(members, ElementsAre(1, 3, 7, 8));
  // The committed set is another's.
  EXPECT_FALSE(seen->Contains(1));
}

// Back ends promise room for all ids there are, not for any number of repeats.
TEST_F(SequenceTest, KeepsEachStopIdOnce) {
  Request request = TestEngine::Generate({1}, 5);
  request.stopping.stop_token_ids = {7, 3, 7, 7};
  request.stopping.end_of_text_ids = {3, 5};
  Sequence sequence = Make(std::move(request));
  Prepare(&sequence, kByteTokenizerIds);
  EXPECT_THAT(sequence.stop_ids, ElementsAre(3, 5, 7));
}

TEST_F(SequenceTest, LeavesTheLastTokenOfAWholeAnswerPending) {
  Sequence sequence = Make(Resumed({1, 2}, {3, 4}, 2));
  ASSERT_TRUE(ReadReceived(&sequence).ok());
  EXPECT_EQ(sequence.received_end, FinishReason::kLength);
  Prepare(&sequence, kByteTokenizerIds);
  EXPECT_THAT(sequence.to_feed, ElementsAre(1, 2, 3));
  EXPECT_TRUE(sequence.seen.Contains(4));
}

// --- What was received.

TEST_F(SequenceTest, CountsWhatWasReceivedAsGenerated) {
  Sequence sequence = Make(Resumed({1}, {5, 6, 5}, 8));
  ASSERT_TRUE(ReadReceived(&sequence).ok());
  EXPECT_THAT(sequence.generated, ElementsAre(5, 6, 5));
  EXPECT_THAT(sequence.generated_counts, ElementsAre(Pair(5, 2), Pair(6, 1)));
  EXPECT_FALSE(sequence.received_end.has_value());
}

TEST_F(SequenceTest, WithoutReceivedTokensNothingHasEnded) {
  Sequence sequence = Make(Resumed({1}, {}, 0));
  ASSERT_TRUE(ReadReceived(&sequence).ok());
  EXPECT_FALSE(sequence.received_end.has_value());
  EXPECT_THAT(sequence.generated, IsEmpty());
}

TEST_F(SequenceTest, WhatWasReceivedMayEndTheTurn) {
  Request by_token = Resumed({1}, {5, 6}, 8);
  by_token.stopping.stop_token_ids = {6};
  Request by_end_of_text = Resumed({1}, {5, kEndOfText}, 8);
  by_end_of_text.stopping.end_of_text_ids = {kEndOfText};
  Request by_text = Resumed({1}, {'a', 'b'}, 8);
  by_text.stopping.stop = {"ab"};
  for (const Request& request : {by_token, by_end_of_text, by_text}) {
    Sequence sequence = Make(request);
    ASSERT_TRUE(ReadReceived(&sequence).ok());
    EXPECT_EQ(sequence.received_end, FinishReason::kStop);
  }
}

TEST_F(SequenceTest, RefusesReceivedTokensBehindTheEnd) {
  Request request = Resumed({1}, {5, 6, 7, 8}, 8);
  request.stopping.stop_token_ids = {6};
  Sequence sequence = Make(request);
  const absl::Status status = ReadReceived(&sequence);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("received_token_ids[1] (6) ends the turn, but 2 tokens "
                        "follow it"));
}

TEST(IsStopToken, OnesOfTheRequestAndTheModelsEndOfText) {
  Stopping stopping;
  EXPECT_FALSE(IsStopToken(stopping, 0));
  stopping.stop_token_ids = {3, 4};
  stopping.end_of_text_ids = {7};
  for (int32_t id = 0; id < 10; ++id) {
    EXPECT_EQ(IsStopToken(stopping, id), id == 3 || id == 4 || id == 7) << id;
  }
}

// --- Who goes first.

TEST(WaitingRequest, PriorityGoesBeforeArrival) {
  const absl::Time now = absl::FromUnixSeconds(1700000000);
  const WaitingRequest early = {.priority = 0, .arrival = now};
  const WaitingRequest late = {.priority = 0,
                               .arrival = now + absl::Seconds(1)};
  const WaitingRequest urgent = {.priority = 1,
                                 .arrival = now + absl::Seconds(2)};
  EXPECT_TRUE(GoesBefore(early, late));
  EXPECT_FALSE(GoesBefore(late, early));
  EXPECT_TRUE(GoesBefore(urgent, early));
  EXPECT_FALSE(GoesBefore(early, urgent));
  EXPECT_FALSE(GoesBefore(early, early));
}

TEST_F(SequenceTest, WaitsWithTheRestOfWhatItHasBegunToFeed) {
  Sequence sequence = Make(Resumed({1, 2, 3}, {4}, 8));
  sequence.request.priority = 5;
  sequence.arrival = absl::FromUnixSeconds(7);
  ASSERT_TRUE(ReadReceived(&sequence).ok());
  Prepare(&sequence, kByteTokenizerIds);
  EXPECT_EQ(AsWaiting(sequence).priority, 5);
  EXPECT_EQ(AsWaiting(sequence).arrival, absl::FromUnixSeconds(7));
  EXPECT_EQ(AsWaiting(sequence).prompt_tokens, 3);
  sequence.start_time = absl::FromUnixSeconds(8);
  sequence.fed = 3;
  EXPECT_EQ(AsWaiting(sequence).prompt_tokens, 1);
}

// --- What it takes.

TEST(SequenceBytes, GrowWithAllThatAClientCanSend) {
  const Request small = TestEngine::Generate({1}, 1);
  const size_t least = SequenceBytes(small);
  EXPECT_GE(least, sizeof(Sequence));
  const auto more = [&](auto change) {
    Request request = small;
    change(&request);
    return SequenceBytes(request) - least;
  };
  constexpr size_t kMany = 1000;
  const auto ids = Tokens(kMany, 1);
  EXPECT_GE(more([&](Request* r) { r->prompt = ids; }), 2 * 4 * (kMany - 4));
  EXPECT_GE(more([&](Request* r) { r->received = ids; }), 3 * 4 * kMany);
  EXPECT_GE(more([&](Request* r) { r->stopping.stop_token_ids = ids; }),
            4 * kMany);
  EXPECT_GE(
      more([&](Request* r) { r->stopping.stop = {std::string(kMany, 's')}; }),
      20 * kMany);
  EXPECT_GE(more([&](Request* r) { r->session_id = std::string(kMany, 's'); }),
            kMany);
  EXPECT_GE(more([&](Request* r) { r->request_id = std::string(kMany, 's'); }),
            kMany);
  EXPECT_GE(more([&](Request* r) {
              for (int id = 0; id < static_cast<int>(kMany); ++id) {
                r->sampling.logit_bias[id] = 1;
              }
            }),
            sizeof(std::pair<int32_t, float>) * kMany);
}

}  // namespace
}  // namespace engram

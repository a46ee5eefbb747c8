#include "server/token_stream.h"

#include <string>
#include <utility>
#include <variant>

#include "gtest/gtest.h"

namespace engram {
namespace {

using State = TokenStream::State;

TokenStream::Item Token(int32_t index) {
  SampledToken token;
  token.index = index;
  return token;
}

// As the engine and its delivery do it together.
void Say(TokenStream* stream, TokenStream::Item item) {
  if (stream->Push(std::move(item))) stream->TellReader();
}
void End(TokenStream* stream, absl::Status status) {
  if (stream->End(std::move(status))) stream->TellReader();
}

int32_t IndexOf(const Event& event) {
  return std::get<TokenEvent>(event).index;
}

TEST(TokenStream, HandsOverEventsInOrderThenTheEnd) {
  TokenStream stream(8, [] {});
  Say(&stream, Token(0));
  Say(&stream, Token(1));
  End(&stream, absl::AbortedError("over"));
  Event event;
  absl::Status status;
  ASSERT_EQ(stream.Pop(&event, &status), State::kEvent);
  EXPECT_EQ(IndexOf(event), 0);
  ASSERT_EQ(stream.Pop(&event, &status), State::kEvent);
  EXPECT_EQ(IndexOf(event), 1);
  EXPECT_EQ(stream.Pop(&event, &status), State::kEnd);
  EXPECT_EQ(status, absl::AbortedError("over"));
  // And says so again.
  EXPECT_EQ(stream.Pop(&event, &status), State::kEnd);
}

TEST(TokenStream, HasNoRoomWhenFull) {
  TokenStream stream(2, [] {});
  Say(&stream, Token(0));
  EXPECT_TRUE(stream.HasRoom());
  Say(&stream, Token(1));
  EXPECT_FALSE(stream.HasRoom());
  Event event;
  absl::Status status;
  stream.Pop(&event, &status);
  EXPECT_TRUE(stream.HasRoom());
}

TEST(TokenStream, TakesTheLastEventsEvenWhenFull) {
  TokenStream stream(1, [] {});
  Say(&stream, Token(0));
  Say(&stream, CompletedEvent());
  End(&stream, absl::OkStatus());
  Event event;
  absl::Status status;
  EXPECT_EQ(stream.Pop(&event, &status), State::kEvent);
  EXPECT_EQ(stream.Pop(&event, &status), State::kEvent);
  EXPECT_EQ(stream.Pop(&event, &status), State::kEnd);
}

TEST(TokenStream, WakesTheEngineWhenAFullStreamIsRead) {
  int woken = 0;
  TokenStream stream(2, [&] { ++woken; });
  Event event;
  absl::Status status;
  Say(&stream, Token(0));
  stream.Pop(&event, &status);
  EXPECT_EQ(woken, 0);
  Say(&stream, Token(1));
  Say(&stream, Token(2));
  stream.Pop(&event, &status);
  EXPECT_EQ(woken, 1);
}

TEST(TokenStream, CallsReadyOnceAfterEachEmptyPop) {
  TokenStream stream(8, [] {});
  int ready = 0;
  stream.SetReady([&] { ++ready; });
  Say(&stream, Token(0));
  EXPECT_EQ(ready, 0);
  Event event;
  absl::Status status;
  stream.Pop(&event, &status);
  ASSERT_EQ(stream.Pop(&event, &status), State::kEmpty);
  Say(&stream, Token(1));
  Say(&stream, Token(2));
  EXPECT_EQ(ready, 1);
  stream.Pop(&event, &status);
  stream.Pop(&event, &status);
  ASSERT_EQ(stream.Pop(&event, &status), State::kEmpty);
  End(&stream, absl::OkStatus());
  EXPECT_EQ(ready, 2);
}

// A reactor that is told "ready" pops at once, on the same thread.
TEST(TokenStream, MayBeReadFromReady) {
  TokenStream stream(8, [] {});
  Event event;
  absl::Status status;
  State state = State::kEmpty;
  stream.SetReady([&] { state = stream.Pop(&event, &status); });
  stream.Pop(&event, &status);
  Say(&stream, Token(5));
  EXPECT_EQ(state, State::kEvent);
  EXPECT_EQ(IndexOf(event), 5);
}

TEST(TokenStream, HasAReaderToTellOnceAfterEachEmptyPop) {
  TokenStream stream(8, [] {});
  EXPECT_FALSE(stream.Push(Token(0)));
  Event event;
  absl::Status status;
  stream.Pop(&event, &status);
  ASSERT_EQ(stream.Pop(&event, &status), State::kEmpty);
  EXPECT_TRUE(stream.Push(Token(1)));
  EXPECT_FALSE(stream.Push(Token(2)));
  EXPECT_FALSE(stream.End(absl::OkStatus()));
}

TEST(TokenStream, CountsWhatNobodyWasToldOfYet) {
  TokenStream stream(2, [] {});
  Event event;
  absl::Status status;
  ASSERT_EQ(stream.Pop(&event, &status), State::kEmpty);
  EXPECT_TRUE(stream.Push(Token(0)));
  EXPECT_FALSE(stream.Push(Token(1)));
  EXPECT_FALSE(stream.HasRoom());
}

TEST(TokenStream, KeepsTheFirstReasonToCancel) {
  int woken = 0;
  TokenStream stream(8, [&] { ++woken; });
  EXPECT_FALSE(stream.cancelled().has_value());
  stream.Cancel(absl::CancelledError("first"));
  stream.Cancel(absl::AbortedError("second"));
  EXPECT_EQ(stream.cancelled(), absl::CancelledError("first"));
  EXPECT_EQ(woken, 1);
}

TEST(TokenStream, IgnoresACancelAfterTheEnd) {
  TokenStream stream(8, [] {});
  End(&stream, absl::OkStatus());
  stream.Cancel(absl::CancelledError("late"));
  EXPECT_FALSE(stream.cancelled().has_value());
}

}  // namespace
}  // namespace engram

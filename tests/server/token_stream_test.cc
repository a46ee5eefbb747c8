#include "server/token_stream.h"

#include <string>
#include <utility>
#include <variant>

#include "gtest/gtest.h"

namespace engram {
namespace {

using State = TokenStream::State;

Event Token(int32_t index) {
  TokenEvent token;
  token.index = index;
  return token;
}

int32_t IndexOf(const Event& event) {
  return std::get<TokenEvent>(event).index;
}

TEST(TokenStream, HandsOverEventsInOrderThenTheEnd) {
  TokenStream stream(8, [] {});
  stream.Push(Token(0));
  stream.Push(Token(1));
  stream.End(absl::AbortedError("over"));
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
  stream.Push(Token(0));
  EXPECT_TRUE(stream.HasRoom());
  stream.Push(Token(1));
  EXPECT_FALSE(stream.HasRoom());
  Event event;
  absl::Status status;
  stream.Pop(&event, &status);
  EXPECT_TRUE(stream.HasRoom());
}

TEST(TokenStream, TakesTheLastEventsEvenWhenFull) {
  TokenStream stream(1, [] {});
  stream.Push(Token(0));
  stream.Push(CompletedEvent());
  stream.End(absl::OkStatus());
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
  stream.Push(Token(0));
  stream.Pop(&event, &status);
  EXPECT_EQ(woken, 0);
  stream.Push(Token(1));
  stream.Push(Token(2));
  stream.Pop(&event, &status);
  EXPECT_EQ(woken, 1);
}

TEST(TokenStream, CallsReadyOnceAfterEachEmptyPop) {
  TokenStream stream(8, [] {});
  int ready = 0;
  stream.SetReady([&] { ++ready; });
  stream.Push(Token(0));
  EXPECT_EQ(ready, 0);
  Event event;
  absl::Status status;
  stream.Pop(&event, &status);
  ASSERT_EQ(stream.Pop(&event, &status), State::kEmpty);
  stream.Push(Token(1));
  stream.Push(Token(2));
  EXPECT_EQ(ready, 1);
  stream.Pop(&event, &status);
  stream.Pop(&event, &status);
  ASSERT_EQ(stream.Pop(&event, &status), State::kEmpty);
  stream.End(absl::OkStatus());
  EXPECT_EQ(ready, 2);
}

// A reactor that is told "ready" pops at once, on the engine's thread.
TEST(TokenStream, MayBeReadFromReady) {
  TokenStream stream(8, [] {});
  Event event;
  absl::Status status;
  State state = State::kEmpty;
  stream.SetReady([&] { state = stream.Pop(&event, &status); });
  stream.Pop(&event, &status);
  stream.Push(Token(5));
  EXPECT_EQ(state, State::kEvent);
  EXPECT_EQ(IndexOf(event), 5);
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
  stream.End(absl::OkStatus());
  stream.Cancel(absl::CancelledError("late"));
  EXPECT_FALSE(stream.cancelled().has_value());
}

}  // namespace
}  // namespace engram

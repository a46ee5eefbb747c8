// What every call has in common, whatever its method: how a message that is
// none is refused, and what an answer may take.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/generic_call.h"
#include "tests/integration/server_fixture.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Calls : public ServerFixture {
 protected:
  Calls() : ServerFixture(ZooOptions({kInduction})) {}

  // How a call ends whose only message is `bytes`.
  absl::Status Send(const std::string& method, const std::string& bytes) const {
    GenericCall call(server_.address(), "/engram.v1." + method);
    call.WriteBytes(bytes);
    call.WritesDone();
    v1::GenerateResponse response;
    while (call.Read(&response)) {
    }
    return call.Finish();
  }

  void ExpectInvalid(const std::string& method, const std::string& bytes,
                     const ::testing::Matcher<std::string>& message) const {
    SCOPED_TRACE(method);
    const absl::Status status = Send(method, bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), message);
  }
};

TEST_F(Calls, ATextThatIsNotUtf8IsRefusedByTheNameOfItsField) {
  // Field 5, "ab\xff\xfe".
  ExpectInvalid("Generation/Generate",
                "\x2a\x04"
                "ab\xff\xfe",
                HasSubstr("GenerateRequest.text is not UTF-8 at byte 2"));
  // Field 9, stopping, with field 2, stop.
  ExpectInvalid("Generation/Generate", "\x4a\x03\x12\x01\xff",
                HasSubstr("GenerateRequest.stopping.stop is not UTF-8"));
  ExpectInvalid("Generation/Score", "\x22\x01\xff",
                HasSubstr("ScoreRequest.text is not UTF-8"));
  ExpectInvalid("Generation/Converse", "\x0a\x03\x2a\x01\xff",
                HasSubstr("ConverseRequest.turn.text is not UTF-8"));
  ExpectInvalid("Models/Get", "\x0a\x01\xff",
                HasSubstr("GetModelRequest.model"));
  ExpectInvalid("Models/Tokenize", "\x12\x01\xff",
                HasSubstr("TokenizeRequest.text"));
  ExpectInvalid("Models/Detokenize", "\x0a\x01\xff",
                HasSubstr("DetokenizeRequest.model"));
  for (const char* method :
       {"Get", "Delete", "Fork", "Create", "List", "Checkpoint",
        "ListCheckpoints", "DeleteCheckpoint", "Export"}) {
    ExpectInvalid(absl::StrCat("Sessions/", method), "\x0a\x01\xff",
                  HasSubstr("is not UTF-8"));
  }
  ExpectInvalid("Sessions/Import", "\x0a\x03\x0a\x01\xff",
                HasSubstr("ImportRequest.header.session_id is not UTF-8"));
}

TEST_F(Calls, AMessageThatIsNoneIsRefusedAndTheReasonTold) {
  // Says that 127 bytes follow.
  ExpectInvalid("Generation/Generate",
                "\x0a\x7f"
                "ab",
                AllOf(HasSubstr("no engram.v1.GenerateRequest"),
                      HasSubstr("model says that it has 127 bytes, but 2")));
  ExpectInvalid("Generation/Converse",
                "\x0a\x7f"
                "ab",
                HasSubstr("turn says that it has 127 bytes"));
  ExpectInvalid("Models/Tokenize",
                "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                HasSubstr("damaged near byte"));
  ExpectInvalid("Sessions/Get", "\x07", HasSubstr("damaged near byte"));
}

TEST_F(Calls, RefusalsOfMessagesAreCountedByMethod) {
  ASSERT_FALSE(Send("Generation/Generate", "\x2a\x01\xff").ok());
  ASSERT_FALSE(Send("Generation/Converse", "\x07").ok());
  ASSERT_FALSE(Send("Models/Tokenize", "\x12\x01\xff").ok());
  for (const char* method : {"Generate", "Converse", "Tokenize"}) {
    EXPECT_TRUE(Eventually([&] {
      return server_.Metrics().Sum("requests_total",
                                   {absl::StrCat("method=\"", method, "\""),
                                    "code=\"INVALID_ARGUMENT\""}) == 1;
    })) << method;
  }
}

TEST_F(Calls, WhatIsEchoedIsCut) {
  v1::GenerateRequest request = TokenTurn(std::string(1 << 20, 'm'), {1}, 1);
  const Answer answer = server_.client().Generate(request);
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kNotFound);
  EXPECT_LT(answer.status.message().size(), 300u);
  EXPECT_THAT(std::string(answer.status.message()),
              HasSubstr("mmm...\" (1048576 bytes)"));
  const absl::Status get =
      server_.client().GetModel(std::string(1 << 20, 'm')).status();
  EXPECT_LT(get.message().size(), 300u);
}

// --- Answers in one piece.

TEST(Answers, ATextToTokeniseAndIdsToReadHaveLimits) {
  ServerOptions options = ZooOptions({kInduction});
  options.max_tokenize_bytes = 20;
  options.max_detokenize_tokens = 7;
  TestServer server(options);
  v1::TokenizeRequest text;
  text.set_text(Words(20));
  EXPECT_TRUE(server.client().Tokenize(text).ok());
  text.set_text(Words(20) + " ");
  const absl::Status long_text = server.client().Tokenize(text).status();
  EXPECT_EQ(long_text.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(long_text.message()),
              HasSubstr("21 bytes, limit 20 (--max-tokenize-bytes)"));
  v1::DetokenizeRequest ids;
  for (int i = 0; i < 7; ++i) ids.add_token_ids(1);
  EXPECT_TRUE(server.client().Detokenize(ids).ok());
  ids.add_token_ids(1);
  const absl::Status many_ids = server.client().Detokenize(ids).status();
  EXPECT_EQ(many_ids.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(many_ids.message()),
              HasSubstr("8 entries, limit 7 (--max-detokenize-tokens)"));
}

TEST(Answers, TheAlternativesOfAScoreHaveALimitInAll) {
  ServerOptions options = ZooOptions({kInduction});
  options.max_score_alternatives = 12;
  TestServer server(options);
  v1::ScoreRequest request = TokenScore("", {1, 2, 3, 4});
  request.set_logprobs(3);
  EXPECT_TRUE(server.client().Score(request).ok());
  request.set_logprobs(4);
  const absl::Status status = server.client().Score(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("16 in all, limit 12 (--max-score-alternatives)"));
}

TEST(Answers, OverTheirMemoryAreRefusedAndReadOnesGiveItBack) {
  ServerOptions options = ZooOptions({kInduction});
  options.reply_memory = 20000;
  TestServer server(options);
  v1::TokenizeRequest text;
  text.set_text(Words(1000));
  const auto none_is_left = [&] {
    return server.Metrics().Sum("reply_bytes") == 0;
  };
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(server.client().Tokenize(text).ok());
    // The client may have it before the server knows.
    EXPECT_TRUE(Eventually(none_is_left));
  }
  text.set_pieces(true);
  const absl::Status pieces = server.client().Tokenize(text).status();
  EXPECT_EQ(pieces.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(pieces.message()),
              AllOf(HasSubstr("64000 bytes"), HasSubstr("limit 10000"),
                    HasSubstr("--reply-memory")));
  v1::ScoreRequest score = TokenScore("", std::vector<int32_t>(100, 1));
  EXPECT_EQ(server.client().Score(score).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Eventually(none_is_left));
}

TEST(Answers, ThatAreNotReadEndWithTheirTime) {
  ServerOptions options = ZooOptions({kInduction});
  // Long enough that the answer is seen to wait.
  options.slow_reader_timeout = absl::Seconds(1);
  options.max_tokenize_bytes = 8 << 20;
  options.reply_memory = int64_t{2} << 30;
  TestServer server(options);
  GenericCall call(server.address(), "/engram.v1.Models/Tokenize");
  v1::TokenizeRequest request;
  // More than a connection and its ends have room for.
  request.set_text(Words(8 << 20));
  request.set_pieces(true);
  ASSERT_TRUE(call.Write(request));
  call.WritesDone();
  ASSERT_TRUE(
      Eventually([&] { return server.Metrics().Sum("reply_bytes") > 0; }));
  EXPECT_TRUE(
      Eventually([&] { return server.Metrics().Sum("reply_bytes") == 0; }));
  v1::TokenizeResponse response;
  EXPECT_FALSE(call.Read(&response));
  EXPECT_FALSE(call.Finish().ok());
}

TEST(Answers, StatesThatAreNotReadEndWithTheirTime) {
  constexpr char kAttention[] = "attention-induction-t256";
  ServerOptions options = ZooOptions({kAttention});
  options.slow_reader_timeout = absl::Seconds(1);
  TestServer server(options);
  // Keys and values of a kilobyte each: more than a connection has room for.
  const int tokens = Scaled(8192, 4096);
  const Answer said = server.client().Generate(
      OnSession(TokenTurn(kAttention, RandomIds(tokens, 16), 0), "s"));
  ASSERT_TRUE(said.status.ok()) << said.status;
  GenericCall call(server.address(), "/engram.v1.Sessions/Export");
  v1::ExportRequest request;
  request.set_session_id("s");
  ASSERT_TRUE(call.Write(request));
  call.WritesDone();
  EXPECT_TRUE(Eventually(
      [&] { return server.Metrics().Sum("reply_bytes") > 1000 * tokens; }));
  EXPECT_TRUE(
      Eventually([&] { return server.Metrics().Sum("reply_bytes") == 0; }));
  v1::ExportResponse response;
  while (call.Read(&response)) {
  }
  EXPECT_FALSE(call.Finish().ok());
}

TEST(Answers, TextsThatWaitToBeReadEndWithADrain) {
  ServerOptions options = ZooOptions({kInduction});
  TestServer server(options);
  const BusyReading others(server, /*clients=*/3);
  EXPECT_TRUE(server.server().Drain().ok());
  int dropped = 0;
  for (const auto& stream : others.streams()) {
    const absl::Status status = stream->ReadAll().status;
    EXPECT_FALSE(status.ok());
    dropped += status.code() == absl::StatusCode::kUnavailable;
  }
  EXPECT_GT(dropped, 0);
}

}  // namespace
}  // namespace engram

// What each field of a message becomes, and of which it is told that it is
// wrong. Limits one by one are in tests/integration/limits_test.cc.
#include "server/wire.h"

#include <google/protobuf/text_format.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_engine.h"

namespace engram {
namespace {

using ::google::protobuf::TextFormat;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::Pair;

absl::Status GoOn() { return absl::OkStatus(); }

class WireTest : public ::testing::Test {
 protected:
  WireTest() {
    model_.name = "m";
    model_.number = 3;
    model_.tokenizer = MakeByteTokenizer();
  }

  template <typename Message>
  static Message Parse(const std::string& text) {
    Message message;
    EXPECT_TRUE(TextFormat::ParseFromString(text, &message)) << text;
    return message;
  }

  absl::StatusOr<Request> Turn(const std::string& text) const {
    return ToRequest(Parse<v1::GenerateRequest>(text), tenant_, model_, limits_,
                     GoOn);
  }
  absl::StatusOr<Request> Score(const std::string& text) const {
    return ToRequest(Parse<v1::ScoreRequest>(text), tenant_, model_, limits_,
                     GoOn);
  }
  absl::StatusOr<NewSession> Create(const std::string& text) const {
    return ToNewSession(Parse<v1::CreateSessionRequest>(text), tenant_, model_,
                        limits_);
  }

  static void ExpectInvalid(const absl::Status& status,
                            const std::string& message) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  const TenantHandle tenant_ = std::make_shared<Tenant>("t", 1);
  ServedModel model_;
  ServerOptions limits_;
};

// --- Requests.

TEST_F(WireTest, ATurnHasWhatItsMessageSays) {
  const absl::StatusOr<Request> turn = Turn(R"(
      session_id: "s" request_id: "r" expected_version: 4
      token_ids { ids: [1, 2] } keep_partial: true
      received_token_ids: [5, 6, 7] logprobs: 8 priority: -9
      sampling {
        temperature: 0.5 top_k: 10 top_p: 0.25 min_p: 0.125
        repetition_penalty: 1.5 presence_penalty: 2.5 frequency_penalty: 3.5
        logit_bias { key: 11 value: 4.5 } logit_bias { key: 12 value: -4.5 }
        seed: -13
      }
      stopping {
        max_tokens: 14 stop: ["x", "yz"] stop_token_ids: [15, 16]
        ignore_eos: true
      })");
  ASSERT_TRUE(turn.ok()) << turn.status();
  EXPECT_EQ(turn->kind, RequestKind::kGenerate);
  EXPECT_EQ(turn->tenant, tenant_);
  EXPECT_EQ(turn->session_id, "s");
  EXPECT_EQ(turn->request_id, "r");
  EXPECT_EQ(turn->expected_version, 4);
  EXPECT_THAT(turn->prompt, ElementsAre(1, 2));
  EXPECT_TRUE(turn->keep_partial);
  EXPECT_THAT(turn->received, ElementsAre(5, 6, 7));
  EXPECT_EQ(turn->logprobs, 8);
  EXPECT_EQ(turn->priority, -9);
  EXPECT_EQ(turn->sampling.temperature, 0.5f);
  EXPECT_EQ(turn->sampling.top_k, 10);
  EXPECT_EQ(turn->sampling.top_p, 0.25f);
  EXPECT_EQ(turn->sampling.min_p, 0.125f);
  EXPECT_EQ(turn->sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(turn->sampling.presence_penalty, 2.5f);
  EXPECT_EQ(turn->sampling.frequency_penalty, 3.5f);
  EXPECT_THAT(turn->sampling.logit_bias,
              ElementsAre(Pair(11, 4.5f), Pair(12, -4.5f)));
  EXPECT_EQ(turn->sampling.seed, static_cast<uint64_t>(-13));
  EXPECT_EQ(turn->stopping.max_tokens, 14);
  EXPECT_THAT(turn->stopping.stop, ElementsAre("x", "yz"));
  EXPECT_THAT(turn->stopping.stop_token_ids, ElementsAre(15, 16));
  EXPECT_TRUE(turn->stopping.ignore_eos);
}

TEST_F(WireTest, WhatATurnLeavesOutIsOff) {
  const absl::StatusOr<Request> turn = Turn("");
  ASSERT_TRUE(turn.ok()) << turn.status();
  EXPECT_EQ(turn->session_id, "");
  EXPECT_THAT(turn->request_id, MatchesRegex("[0-9a-f]{32}"));
  EXPECT_FALSE(turn->expected_version.has_value());
  EXPECT_THAT(turn->prompt, IsEmpty());
  EXPECT_FALSE(turn->keep_partial);
  EXPECT_EQ(turn->sampling.temperature, 0);
  EXPECT_EQ(turn->sampling.top_k, 0);
  EXPECT_EQ(turn->sampling.top_p, 1);
  EXPECT_EQ(turn->sampling.min_p, 0);
  EXPECT_EQ(turn->sampling.repetition_penalty, 1);
  EXPECT_EQ(turn->stopping.max_tokens, 0);
  EXPECT_FALSE(turn->stopping.ignore_eos);
  // Of a session that is expected to be new.
  EXPECT_EQ(Turn("session_id: 's' request_id: 'r' expected_version: 0")
                ->expected_version,
            0);
}

TEST_F(WireTest, AScoreHasWhatItsMessageSays) {
  const absl::StatusOr<Request> score =
      Score("session_id: 's' token_ids { ids: [1, 2] } logprobs: 3");
  ASSERT_TRUE(score.ok()) << score.status();
  EXPECT_EQ(score->kind, RequestKind::kScore);
  EXPECT_EQ(score->tenant, tenant_);
  EXPECT_EQ(score->session_id, "s");
  EXPECT_THAT(score->request_id, MatchesRegex("[0-9a-f]{32}"));
  EXPECT_THAT(score->prompt, ElementsAre(1, 2));
  EXPECT_EQ(score->logprobs, 3);
}

TEST_F(WireTest, ATextIsTokenisedAndItsSpecialTokensOnlyIfAskedFor) {
  EXPECT_EQ(Turn("text: 'abc'")->prompt, Bytes("abc"));
  EXPECT_EQ(Turn("text: '<|endoftext|>'")->prompt, Bytes("<|endoftext|>"));
  EXPECT_THAT(Turn("text: '<|endoftext|>' parse_special_tokens: true")->prompt,
              ElementsAre(kEndOfText));
  EXPECT_THAT(Score("text: '<|endoftext|>' parse_special_tokens: true")->prompt,
              ElementsAre(kEndOfText));
}

TEST_F(WireTest, AModelWithoutATokenizerTakesNoText) {
  model_.tokenizer = nullptr;
  EXPECT_TRUE(Turn("token_ids { ids: [1] }").ok());
  EXPECT_TRUE(Turn("text: ''").ok());
  for (const absl::Status& status :
       {Turn("text: 'a'").status(), Score("text: 'a'").status(),
        Turn("stopping { stop: 'a' }").status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("model \"m\" has no tokenizer"));
  }
}

TEST_F(WireTest, ALongTextIsGivenUpWhenNobodyWantsIt) {
  v1::GenerateRequest message;
  message.set_text(std::string(1 << 20, 'a'));
  const absl::StatusOr<Request> request =
      ToRequest(message, tenant_, model_, limits_,
                [] { return absl::CancelledError("gone"); });
  EXPECT_EQ(request.status(), absl::CancelledError("gone"));
}

// --- Seeds.

// A repeat may come to another server, or to one of a later version.
TEST_F(WireTest, TheSeedOfATurnOnASessionIsThatOfItsIds) {
  EXPECT_EQ(Turn("session_id: 's' request_id: 'r'")->sampling.seed,
            5736491558135474162u);
  EXPECT_NE(Turn("session_id: 's' request_id: 'q'")->sampling.seed,
            5736491558135474162u);
  EXPECT_NE(Turn("session_id: 't' request_id: 'r'")->sampling.seed,
            5736491558135474162u);
}

TEST_F(WireTest, WithoutASessionEachTurnHasAnotherSeed) {
  EXPECT_NE(Turn("request_id: 'r'")->sampling.seed,
            Turn("request_id: 'r'")->sampling.seed);
  EXPECT_EQ(Turn("sampling { seed: 0 }")->sampling.seed, 0u);
}

TEST_F(WireTest, WhatNeverBecameARequestStartsWithTheSameSeed) {
  for (const char* text : {"session_id: 's' request_id: 'r'",
                           "request_id: 'r' sampling { seed: -3 }"}) {
    const StartedEvent started = ToStarted(Parse<v1::GenerateRequest>(text));
    const absl::StatusOr<Request> turn = Turn(text);
    EXPECT_EQ(started.session_id, turn->session_id);
    EXPECT_EQ(started.request_id, "r");
    EXPECT_EQ(static_cast<uint64_t>(started.seed), turn->sampling.seed);
  }
  EXPECT_THAT(ToStarted({}).request_id, MatchesRegex("[0-9a-f]{32}"));
}

// --- Refusals.

TEST_F(WireTest, NamesTheFieldThatIsWrong) {
  limits_.max_generated_tokens = 10;
  limits_.max_stop_token_ids = 2;
  limits_.max_logprobs = 5;
  ExpectInvalid(Turn("session_id: 'a b'").status(), "session_id");
  ExpectInvalid(Turn("request_id: 'a b'").status(), "request_id");
  ExpectInvalid(Turn("expected_version: -1").status(),
                "expected_version is -1");
  ExpectInvalid(Turn("logprobs: 6").status(), "logprobs is 6, limit 0 to 5");
  ExpectInvalid(Turn("logprobs: -1").status(), "logprobs is -1");
  ExpectInvalid(Turn("priority: 101").status(),
                "priority is 101, limit -100 to 100");
  ExpectInvalid(Turn("priority: -101").status(), "priority is -101");
  ExpectInvalid(Turn("stopping { max_tokens: 11 }").status(),
                "max_tokens is 11, limit 0 to 10");
  ExpectInvalid(Turn("stopping { max_tokens: -1 }").status(),
                "max_tokens is -1");
  ExpectInvalid(Turn("stopping { stop: '' }").status(), "0 bytes, limit 1");
  ExpectInvalid(Turn("stopping { stop_token_ids: [1, 2, 3] }").status(),
                "3 entries, limit 2 (--max-stop-token-ids)");
  ExpectInvalid(Score("session_id: 'a b'").status(), "session_id");
  ExpectInvalid(Score("logprobs: 6").status(), "logprobs is 6");
  ExpectInvalid(Create("session_id: 'a b'").status(), "session_id");
}

TEST_F(WireTest, ReadsWhichCheckpointARequestStartsFrom) {
  EXPECT_EQ(Turn("from_checkpoint: 'c'")->from_checkpoint, "c");
  EXPECT_EQ(Score("from_checkpoint: 'c'")->from_checkpoint, "c");
  EXPECT_EQ(Create("from_checkpoint: 'c'")->from_checkpoint, "c");
  for (const absl::Status& status :
       {Turn("from_checkpoint: 'a b'").status(),
        Score("from_checkpoint: 'a b'").status(),
        Create("from_checkpoint: 'a b'").status()}) {
    ExpectInvalid(status, "from_checkpoint");
  }
  ExpectInvalid(Score("session_id: 's' from_checkpoint: 'c'").status(),
                "a text is scored after one of them");
}

TEST_F(WireTest, ACheckpointHasWhatItsMessageSays) {
  v1::CheckpointSessionRequest message;
  message.set_checkpoint_id("c");
  (*message.mutable_labels())["k"] = "v";
  const absl::StatusOr<NewCheckpoint> checkpoint =
      ToNewCheckpoint(message, limits_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->id, "c");
  EXPECT_EQ(checkpoint->labels.at("k"), "v");
  (*message.mutable_labels())[""] = "v";
  ExpectInvalid(ToNewCheckpoint(message, limits_).status(), "label \"\"");
  message.set_checkpoint_id("");
  ExpectInvalid(ToNewCheckpoint(message, limits_).status(), "checkpoint_id");
}

// --- Sessions.

TEST_F(WireTest, ASessionHasWhatItsMessageSays) {
  const absl::StatusOr<NewSession> session = Create(R"(
      session_id: "s" time_to_live { seconds: 60 nanos: 5 }
      labels { key: "k" value: "v" } labels { key: "l" })");
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(session->name.id, "s");
  EXPECT_EQ(session->name.tenant, tenant_);
  EXPECT_EQ(session->model, 3);
  EXPECT_EQ(session->time_to_live, absl::Minutes(1) + absl::Nanoseconds(5));
  EXPECT_THAT(session->labels, ElementsAre(Pair("k", "v"), Pair("l", "")));
  EXPECT_THAT(Create("")->name.id, MatchesRegex("[0-9a-f]{32}"));
  EXPECT_FALSE(Create("")->time_to_live.has_value());
}

TEST_F(WireTest, ASessionLivesForATimeThatCanBeTold) {
  limits_.max_session_ttl = absl::Seconds(60);
  EXPECT_TRUE(Create("time_to_live { seconds: 60 }").ok());
  EXPECT_TRUE(Create("time_to_live { nanos: 1 }").ok());
  for (const char* text : {"{}", "{ seconds: 60 nanos: 1 }", "{ seconds: -1 }",
                           "{ seconds: 9223372036854775807 }"}) {
    ExpectInvalid(Create(absl::StrCat("time_to_live ", text)).status(),
                  "1m (--max-session-ttl)");
  }
}

TEST_F(WireTest, LabelsHaveKeysAndBothHaveLimits) {
  EXPECT_TRUE(Create(absl::StrCat("labels { key: '", std::string(64, 'k'),
                                  "' value: '", std::string(256, 'v'), "' }"))
                  .ok());
  ExpectInvalid(Create("labels { value: 'v' }").status(), "a key of 0");
  ExpectInvalid(
      Create(absl::StrCat("labels { key: '", std::string(65, 'k'), "' }"))
          .status(),
      "a key of 65");
  ExpectInvalid(Create(absl::StrCat("labels { key: 'k' value: '",
                                    std::string(257, 'v'), "' }"))
                    .status(),
                "a value of 257");
}

// --- Answers.

template <typename Message>
std::string Text(const Message& message) {
  return message.ShortDebugString();
}

TEST_F(WireTest, EveryFieldOfAnEventIsTold) {
  StartedEvent started;
  started.session_id = "s";
  started.request_id = "r";
  started.version = 1;
  started.position = 2;
  started.cached_tokens = 3;
  started.seed = -4;
  EXPECT_EQ(Text(ToResponse<v1::GenerateResponse>(started)),
            "started { session_id: \"s\" request_id: \"r\" version: 1 "
            "position: 2 cached_tokens: 3 seed: -4 }");
  TokenEvent token;
  token.index = 1;
  token.id = 2;
  token.text = "t";
  token.bytes = "b";
  EXPECT_EQ(Text(ToResponse<v1::ConverseResponse>(token)),
            "token { index: 1 id: 2 text: \"t\" bytes: \"b\" }");
  token.logprob = 0.0f;
  token.top = {{.id = 5, .text = "u", .logprob = -1.5f}};
  EXPECT_EQ(Text(ToMessage(token)),
            "index: 1 id: 2 text: \"t\" bytes: \"b\" logprob: 0 top { id: 5 "
            "text: \"u\" logprob: -1.5 }");
  CompletedEvent completed;
  completed.finish_reason = FinishReason::kStop;
  completed.text = "tail";
  completed.version = 1;
  completed.position = 2;
  completed.usage = {
      .prompt_tokens = 3, .cached_tokens = 4, .generated_tokens = 5};
  completed.timing = {.queue = absl::Milliseconds(1500),
                      .prefill = absl::Nanoseconds(7),
                      .decode = absl::Seconds(8)};
  EXPECT_EQ(Text(ToResponse<v1::GenerateResponse>(completed)),
            "completed { finish_reason: STOP text: \"tail\" version: 1 "
            "position: 2 usage { prompt_tokens: 3 cached_tokens: 4 "
            "generated_tokens: 5 } timing { queue { seconds: 1 nanos: "
            "500000000 } prefill { nanos: 7 } decode { seconds: 8 } } }");
}

TEST_F(WireTest, EveryReasonToFinishIsTold) {
  CompletedEvent completed;
  for (const auto& [reason, told] : std::map<FinishReason, v1::FinishReason>{
           {FinishReason::kStop, v1::STOP},
           {FinishReason::kLength, v1::LENGTH},
           {FinishReason::kCancelled, v1::CANCELLED}}) {
    completed.finish_reason = reason;
    EXPECT_EQ(ToMessage(completed).finish_reason(), told);
  }
}

TEST_F(WireTest, EveryFieldOfASessionIsTold) {
  SessionInfo session;
  session.session_id = "s";
  session.model = "m";
  session.version = 1;
  session.position = 2;
  session.pending_token = true;
  session.tier = "ram";
  session.state_bytes = 3;
  session.create_time = absl::FromUnixSeconds(4) + absl::Nanoseconds(5);
  session.last_used_time = absl::FromUnixSeconds(6);
  session.expire_time = absl::FromUnixSeconds(7);
  session.labels =
      std::make_shared<const SessionLabels>(SessionLabels{{"k", "v"}});
  EXPECT_EQ(
      Text(ToMessage(session)),
      "session_id: \"s\" model: \"m\" version: 1 position: 2 pending_token: "
      "true tier: \"ram\" state_bytes: 3 create_time { seconds: 4 nanos: 5 } "
      "last_used_time { seconds: 6 } expire_time { seconds: 7 } labels { key: "
      "\"k\" value: \"v\" }");
  session.expire_time = absl::InfiniteFuture();
  EXPECT_FALSE(ToMessage(session).has_expire_time());
}

TEST_F(WireTest, StatusesKeepTheirCodeAndMessage) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  for (int code = 1; code <= 16; ++code) {
    const grpc::Status status =
        ToGrpc(absl::Status(static_cast<absl::StatusCode>(code), "why"));
    EXPECT_EQ(static_cast<int>(status.error_code()), code);
    EXPECT_EQ(status.error_message(), "why");
  }
}

}  // namespace
}  // namespace engram

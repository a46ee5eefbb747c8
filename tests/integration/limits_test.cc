// Every limit of a request, gone over by one: a quick refusal with the right
// code, whose message names the value and the limit.
#include <gmock/gmock.h>
#include <google/protobuf/util/time_util.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/integration/server_fixture.h"
#include "tests/support/folders.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::google::protobuf::util::TimeUtil;
using ::testing::HasSubstr;

// Small, and all different, so that no message names another one's by chance.
ServerOptions SmallLimits() {
  ServerOptions options = ZooOptions({kInduction});
  options.max_prompt_tokens = 11;
  options.max_generated_tokens = 12;
  options.max_score_tokens = 13;
  options.max_message_bytes = 4096;
  options.max_logprobs = 5;
  options.max_stop_strings = 3;
  options.max_stop_string_bytes = 17;
  options.max_stop_token_ids = 4;
  options.max_logit_bias = 6;
  options.max_labels = 2;
  options.max_page_size = 8;
  return options;
}

std::vector<int32_t> Zeros(int count) {
  return std::vector<int32_t>(static_cast<size_t>(count), 1);
}

struct LimitCase {
  std::string name;
  absl::StatusCode code;
  // What the message names.
  std::string value;
  std::string limit;
  // `over` is 0 at the limit, which is accepted, and 1 above it.
  std::function<absl::Status(const TestClient& client, int over)> call;
};

// A case of Generate: `change` puts the value into an otherwise good request.
LimitCase TurnCase(std::string name, std::string value, std::string limit,
                   std::function<void(v1::GenerateRequest*, int over)> change) {
  return {std::move(name), absl::StatusCode::kInvalidArgument, std::move(value),
          std::move(limit), [change](const TestClient& client, int over) {
            v1::GenerateRequest request = TokenTurn("", {1, 2}, 1);
            change(&request, over);
            return client.Generate(request).status;
          }};
}

std::vector<LimitCase> SizeCasesOfTurns() {
  return {
      TurnCase("PromptTokens", "12", "11",
               [](auto* request, int over) {
                 *request = TokenTurn("", Zeros(11 + over), 1);
               }),
      TurnCase(
          "PromptTokensOfAText", "12", "11",
          [](auto* request, int over) {
            *request = TextTurn(
                "", absl::StrCat("0 0 0 0 0 0 0 0 0 0 0", over ? " 0" : ""), 1);
          }),
      TurnCase("ReceivedTokenIds", "3", "2",
               [](auto* request, int over) {
                 request->mutable_stopping()->set_max_tokens(2);
                 for (int i = 0; i < 2 + over; ++i) {
                   request->add_received_token_ids(1);
                 }
               }),
      TurnCase(
          "Logprobs", "6", "5",
          [](auto* request, int over) { request->set_logprobs(5 + over); }),
      TurnCase("LogitBias", "7", "6",
               [](auto* request, int over) {
                 for (int i = 0; i < 6 + over; ++i) {
                   (*request->mutable_sampling()->mutable_logit_bias())[i] = 1;
                 }
               }),
      TurnCase(
          "Priority", "101", "100",
          [](auto* request, int over) { request->set_priority(100 + over); }),
      TurnCase("SessionIdLength", "129", "128",
               [](auto* request, int over) {
                 request->set_session_id(std::string(128 + over, 's'));
               }),
      TurnCase("RequestIdLength", "129", "128",
               [](auto* request, int over) {
                 request->set_request_id(std::string(128 + over, 'r'));
               }),
      {"MessageBytesOfATurn", absl::StatusCode::kResourceExhausted, "4097",
       "4096",
       [](const TestClient& client, int over) {
         v1::GenerateRequest request = TextTurn("", "1", 1);
         while (request.ByteSizeLong() < static_cast<size_t>(4096 + over)) {
           request.mutable_text()->push_back(' ');
         }
         return client.Generate(request).status;
       }},
  };
}

std::vector<LimitCase> SizeCasesOfStopping() {
  return {
      TurnCase("MaxTokens", "13", "12",
               [](auto* request, int over) {
                 request->mutable_stopping()->set_max_tokens(12 + over);
               }),
      TurnCase("MaxTokensBelowZero", "-1", "0",
               [](auto* request, int over) {
                 request->mutable_stopping()->set_max_tokens(-over);
               }),
      TurnCase("StopStrings", "4", "3",
               [](auto* request, int over) {
                 for (int i = 0; i < 3 + over; ++i) {
                   request->mutable_stopping()->add_stop(std::string(1, 'x'));
                 }
               }),
      TurnCase("StopStringBytes", "18", "17",
               [](auto* request, int over) {
                 request->mutable_stopping()->add_stop(
                     std::string(17 + over, 'x'));
               }),
      TurnCase("EmptyStopString", "0 bytes", "1",
               [](auto* request, int over) {
                 request->mutable_stopping()->add_stop(
                     std::string(1 - over, 'x'));
               }),
      TurnCase("StopTokenIds", "5", "4",
               [](auto* request, int over) {
                 for (int i = 0; i < 4 + over; ++i) {
                   request->mutable_stopping()->add_stop_token_ids(3);
                 }
               }),
  };
}

std::vector<LimitCase> SizeCasesOfOtherCalls() {
  return {
      {"ScoreTokens", absl::StatusCode::kInvalidArgument, "14", "13",
       [](const TestClient& client, int over) {
         return client.Score(TokenScore("", Zeros(13 + over))).status();
       }},
      {"ScoreLogprobs", absl::StatusCode::kInvalidArgument, "6", "5",
       [](const TestClient& client, int over) {
         v1::ScoreRequest request = TokenScore("", {1, 2});
         request.set_logprobs(5 + over);
         return client.Score(request).status();
       }},
      {"Labels", absl::StatusCode::kInvalidArgument, "3", "2",
       [](const TestClient& client, int over) {
         v1::CreateSessionRequest request;
         for (int i = 0; i < 2 + over; ++i) {
           (*request.mutable_labels())[absl::StrCat("key", i)] = "";
         }
         return client.CreateSession(request).status();
       }},
      {"LabelKeyBytes", absl::StatusCode::kInvalidArgument, "65", "64",
       [](const TestClient& client, int over) {
         v1::CreateSessionRequest request;
         (*request.mutable_labels())[std::string(64 + over, 'k')] = "";
         return client.CreateSession(request).status();
       }},
      {"LabelValueBytes", absl::StatusCode::kInvalidArgument, "257", "256",
       [](const TestClient& client, int over) {
         v1::CreateSessionRequest request;
         (*request.mutable_labels())["key"] = std::string(256 + over, 'v');
         return client.CreateSession(request).status();
       }},
      {"PageSize", absl::StatusCode::kInvalidArgument, "9", "8",
       [](const TestClient& client, int over) {
         v1::ListSessionsRequest request;
         request.set_page_size(8 + over);
         return client.ListSessions(request).status();
       }},
      // The text and four bytes around it.
      {"MessageBytes", absl::StatusCode::kResourceExhausted, "4097", "4096",
       [](const TestClient& client, int over) {
         v1::TokenizeRequest request;
         request.set_text(std::string(4093 + over, ' '));
         EXPECT_EQ(request.ByteSizeLong(), static_cast<size_t>(4096 + over));
         return client.Tokenize(request).status();
       }},
  };
}

std::vector<LimitCase> ValueCases() {
  const auto sampling = [](std::string name, std::string value,
                           std::string limit,
                           std::function<void(v1::Sampling*, int)> change) {
    return TurnCase(std::move(name), std::move(value), std::move(limit),
                    [change](v1::GenerateRequest* request, int over) {
                      change(request->mutable_sampling(), over);
                    });
  };
  return {
      sampling(
          "Temperature", "100.5", "100",
          [](auto* s, int over) { s->set_temperature(100 + 0.5f * over); }),
      sampling("TopK", "-1", "0",
               [](auto* s, int over) { s->set_top_k(-over); }),
      sampling("TopP", "1.5", "1",
               [](auto* s, int over) { s->set_top_p(1 + 0.5f * over); }),
      sampling("MinP", "1.5", "1",
               [](auto* s, int over) { s->set_min_p(1 + 0.5f * over); }),
      sampling("RepetitionPenalty", "100.5", "100",
               [](auto* s, int over) {
                 s->set_repetition_penalty(100 + 0.5f * over);
               }),
      sampling("PresencePenalty", "-100.5", "-100",
               [](auto* s, int over) {
                 s->set_presence_penalty(-100 - 0.5f * over);
               }),
      sampling("FrequencyPenalty", "100.5", "100",
               [](auto* s, int over) {
                 s->set_frequency_penalty(100 + 0.5f * over);
               }),
      sampling("BiasOfAToken", "100.5", "100",
               [](auto* s, int over) {
                 (*s->mutable_logit_bias())[1] = 100 + 0.5f * over;
               }),
      sampling(
          "IdOfABias", "16", "15",
          [](auto* s, int over) { (*s->mutable_logit_bias())[15 + over] = 1; }),
      TurnCase("PromptId", "16", "15",
               [](auto* request, int over) {
                 request->mutable_token_ids()->set_ids(1, 15 + over);
               }),
      TurnCase("PromptIdBelowZero", "-1", "0",
               [](auto* request, int over) {
                 request->mutable_token_ids()->set_ids(1, -over);
               }),
      TurnCase("StopTokenId", "16", "15",
               [](auto* request, int over) {
                 request->mutable_stopping()->add_stop_token_ids(15 + over);
               }),
      TurnCase("ReceivedTokenId", "16", "15",
               [](auto* request, int over) {
                 request->add_received_token_ids(15 + over);
               }),
      TurnCase("ExpectedVersionBelowZero", "-1", "0",
               [](auto* request, int over) {
                 request->set_session_id(absl::StrCat("expected", over));
                 request->set_expected_version(-over);
               }),
      TurnCase("CharactersOfASessionId", "a/b", "[A-Za-z0-9._:-]",
               [](auto* request, int over) {
                 request->set_session_id(over ? "a/b" : "a.b_c:d-e");
               }),
      {"ScoredId", absl::StatusCode::kInvalidArgument, "16", "15",
       [](const TestClient& client, int over) {
         return client.Score(TokenScore("", {1, 15 + over})).status();
       }},
  };
}

void RunCases(const std::vector<LimitCase>& cases) {
  TestServer server(SmallLimits());
  for (const LimitCase& one : cases) {
    SCOPED_TRACE(one.name);
    const absl::Status fits = one.call(server.client(), 0);
    EXPECT_TRUE(fits.ok()) << fits;
    const absl::Status over = one.call(server.client(), 1);
    EXPECT_EQ(over.code(), one.code) << over;
    EXPECT_THAT(std::string(over.message()), HasSubstr(one.value));
    EXPECT_THAT(std::string(over.message()), HasSubstr(one.limit));
  }
}

TEST(Limits, EverySizeOfATurnIsRefusedOneAboveItsLimit) {
  RunCases(SizeCasesOfTurns());
}

TEST(Limits, EverySizeOfWhatStopsATurnIsRefusedOneAboveItsLimit) {
  RunCases(SizeCasesOfStopping());
}

TEST(Limits, EverySizeOfAnotherCallIsRefusedOneAboveItsLimit) {
  RunCases(SizeCasesOfOtherCalls());
}

TEST(Limits, EveryValueIsRefusedOutsideItsRange) { RunCases(ValueCases()); }

int64_t Milliseconds(const Answer& answer) {
  const auto found = answer.trailing.find("retry-after-ms");
  return found == answer.trailing.end() ? -1 : std::stoll(found->second);
}

TEST(Limits, AFullQueueRefusesAtOnceAndNamesItsLimit) {
  ServerOptions options = InductionOptions(/*slots=*/1);
  options.max_queue = 2;
  TestServer server(options);
  const auto running = server.client().StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(running->ReadStarted());
  const auto second = server.client().StartGenerate(EndlessTurn(""));
  const auto third = server.client().StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(server.AwaitLoad(/*running=*/1, /*waiting=*/2));
  const Answer fourth = server.client().Generate(TokenTurn("", {1}, 1));
  EXPECT_EQ(fourth.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(fourth.status.message()),
              HasSubstr("2 requests wait, limit 2 (--max-queue)"));
  // When to come again.
  EXPECT_GE(Milliseconds(fourth), 100);
  EXPECT_EQ(fourth.trailing.at("grpc-retry-pushback-ms"),
            fourth.trailing.at("retry-after-ms"));
  EXPECT_EQ(std::stoll(fourth.trailing.at("retry-after")),
            (Milliseconds(fourth) + 999) / 1000);
}

TEST(Limits, ARequestThatWouldWaitTooLongIsTurnedAwayWithAWordWhenToCome) {
  ServerOptions options = InductionOptions(/*slots=*/1);
  options.max_queue_time = absl::Milliseconds(1);
  TestServer server(options);
  const auto running = server.client().StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(running->ReadStarted());
  const Answer second = server.client().Generate(TokenTurn("", {1}, 1));
  EXPECT_EQ(second.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status.message()),
              HasSubstr("--max-queue-time"));
  EXPECT_FALSE(second.started.has_value());
  EXPECT_GE(Milliseconds(second), 100);
}

TEST(Limits, AWaitingRequestOfHigherPriorityStartsFirst) {
  TestServer server(InductionOptions(/*slots=*/1));
  v1::GenerateRequest most_urgent = EndlessTurn("");
  most_urgent.set_priority(2);  // or it would yield its slot
  const auto running = server.client().StartGenerate(most_urgent);
  ASSERT_TRUE(running->ReadStarted());
  const auto low = server.client().StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(server.AwaitLoad(1, 1));
  v1::GenerateRequest urgent = EndlessTurn("");
  urgent.set_priority(1);
  const auto high = server.client().StartGenerate(urgent);
  ASSERT_TRUE(server.AwaitLoad(1, 2));
  running->Cancel();
  ASSERT_TRUE(high->ReadStarted());
  ASSERT_TRUE(server.AwaitLoad(1, 1));
  high->Cancel();
  EXPECT_TRUE(low->ReadStarted());
}

// gRPC itself holds back the calls of a connection that has too many.
TEST(Limits, AConnectionsCallsAboveMaxStreamsWait) {
  ServerOptions options = ZooOptions({kInduction});
  options.max_streams = 2;
  TestServer server(options);
  const TestClient& client = server.client();
  const auto first = client.StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(first->ReadStarted());
  const auto second = client.StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(second->ReadStarted());
  const Answer third =
      client.Generate(TokenTurn("", {1}, 1), absl::Milliseconds(200));
  EXPECT_EQ(third.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(third.started.has_value());
  const TestClient other(server.address());
  EXPECT_TRUE(other.Generate(TokenTurn("", {1}, 1)).status.ok());
  first->Cancel();
  EXPECT_TRUE(client.Generate(TokenTurn("", {1}, 1)).status.ok());
}

TEST(Limits, ASessionAboveTheirNumberTakesTheIdleOnesPlaceAndSaysSo) {
  ServerOptions options = ZooOptions({kInduction});
  options.max_sessions = 2;
  TestServer server(options);
  for (const char* id : {"one", "two", "three"}) {
    const Answer answer =
        server.client().Generate(OnSession(TokenTurn("", {1}, 0), id));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
  }
  const Answer gone =
      server.client().Generate(OnSession(TokenTurn("", {1}, 0), "one"));
  EXPECT_EQ(gone.status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(gone.status.message()), HasSubstr("evicted"));
  // Its owner says that the loss is known.
  EXPECT_TRUE(server.client().DeleteSession("one").ok());
  EXPECT_TRUE(server.client()
                  .Generate(OnSession(TokenTurn("", {1}, 0), "one"))
                  .status.ok());
}

TEST(Limits, ASessionAboveTheirNumberIsRefusedWhileAllRun) {
  ServerOptions options = ZooOptions({kInduction});
  options.max_sessions = 2;
  TestServer server(options);
  const TestClient& client = server.client();
  const auto one = client.StartGenerate(OnSession(EndlessTurn(""), "one"));
  ASSERT_TRUE(one->ReadStarted());
  const auto two = client.StartGenerate(OnSession(EndlessTurn(""), "two"));
  ASSERT_TRUE(two->ReadStarted());
  const Answer three =
      client.Generate(OnSession(TokenTurn("", {1}, 0), "three"));
  EXPECT_EQ(three.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(three.status.message()),
              HasSubstr("limit 2 (--max-sessions)"));
}

TEST(Limits, SessionMemoryThatIsFullForgetsTheOldestAndSaysSo) {
  ServerOptions options = InductionOptions(/*slots=*/1);
  TestServer probe(options);
  const int64_t state_bytes = probe.client().GetModel("")->state_bytes();
  // Room for two states in RAM beside the one in the slot.
  options.session_memory = 2 * state_bytes + 16384;
  TestServer server(options);
  for (const char* id : {"one", "two", "three", "four"}) {
    const Answer answer =
        server.client().Generate(OnSession(TokenTurn("", {1}, 0), id));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
  }
  const auto gone = server.client().GetSession("one");
  EXPECT_EQ(gone.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(gone.status().message()), HasSubstr("evicted"));
  EXPECT_EQ(server.client().GetSession("four")->tier(), "slot");
  EXPECT_EQ(server.client().GetSession("three")->tier(), "ram");
}

TEST(Limits, ASessionIdleForItsTimeToLiveExpires) {
  TestServer server(ZooOptions({kInduction}));
  v1::CreateSessionRequest request;
  request.set_session_id("brief");
  request.mutable_time_to_live()->set_nanos(50'000'000);
  ASSERT_TRUE(server.client().CreateSession(request).ok());
  EXPECT_TRUE(Eventually([&] {
    return server.client().GetSession("brief").status().code() ==
           absl::StatusCode::kNotFound;
  }));
}

// google.protobuf.Timestamp ends with the year 9999: a session that expires
// later could not be told as JSON, nor any list that it is in.
TEST(Limits, ASessionExpiresWithinTheYearsThatATimestampTells) {
  ServerOptions options = ZooOptions({kInduction});
  TestServer server(options);
  const auto create = [&](int64_t seconds, int32_t nanos) {
    v1::CreateSessionRequest request;
    request.mutable_time_to_live()->set_seconds(seconds);
    request.mutable_time_to_live()->set_nanos(nanos);
    return server.client().CreateSession(request);
  };
  const int64_t limit = absl::ToInt64Seconds(options.max_session_ttl);
  const absl::StatusOr<v1::Session> longest = create(limit, 0);
  ASSERT_TRUE(longest.ok()) << longest.status();
  EXPECT_LE(longest->expire_time().seconds(), TimeUtil::kTimestampMaxSeconds);

  for (const auto& [seconds, nanos] : std::vector<std::pair<int64_t, int32_t>>{
           {limit, 1},
           {315'576'000'000, 0},  // The longest that is a legal Duration.
           {std::numeric_limits<int64_t>::max(), 999'999'999},
           {std::numeric_limits<int64_t>::min(), -1},
           {0, -1}}) {
    const absl::Status status = create(seconds, nanos).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat(seconds, " s and ", nanos, " ns")));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("876600h (--max-session-ttl)"));
  }
}

TEST(Limits, AModelWithoutTokenizerTakesTokenIdsOnly) {
  // Everything of the induction model but its tokenizer.
  const TemporaryFolder folder;
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy_file(
        SourceFile(absl::StrCat("model/zoo/", kInduction, "/", name)),
        folder.File(name));
  }
  ServerOptions options = ZooOptions({});
  // What an older tokenizer is kept in: told as a warning.
  folder.Write("vocab.json", "{}");
  options.models = {{"bare", folder.path()}};
  TestServer server(options);
  EXPECT_FALSE(server.client().GetModel("bare")->has_tokenizer());
  ASSERT_EQ(server.client().GetModel("bare")->warnings_size(), 1);
  EXPECT_THAT(server.client().GetModel("bare")->warnings(0),
              testing::HasSubstr("vocab.json"));
  const Answer answer = server.client().Generate(TokenTurn("", {1, 2}, 3));
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.tokens.size(), 3u);
  EXPECT_EQ(answer.text(), "");
  v1::GenerateRequest stop = TokenTurn("", {1, 2}, 3);
  stop.mutable_stopping()->add_stop("x");
  for (const absl::Status& status :
       {server.client().Generate(TextTurn("", "1 2", 1)).status,
        server.client().Generate(stop).status}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("no tokenizer"));
  }
}

}  // namespace
}  // namespace engram

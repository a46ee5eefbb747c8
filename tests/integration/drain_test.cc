// Drain: what runs is let end or is ended, what comes is refused, and everybody
// is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/integration/generic_call.h"
#include "tests/integration/relay.h"
#include "tests/integration/server_fixture.h"
#include "tests/integration/standard_services.pb.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using testing::HealthRequest;
using testing::HealthResponse;

// A turn that ends by itself within the drain timeout, but not at once.
v1::GenerateRequest ShortTurn() {
  v1::GenerateRequest request = EndlessTurn("");
  request.mutable_stopping()->set_max_tokens(Scaled(300, 100));
  return request;
}

// Short turns and endless ones in turn; every other endless one keeps what it
// has.
std::vector<std::unique_ptr<GenerateStream>> StartShortAndEndlessTurns(
    const TestClient& client, int count) {
  std::vector<std::unique_ptr<GenerateStream>> streams;
  for (int i = 0; i < count; ++i) {
    v1::GenerateRequest request =
        OnSession(i % 2 == 0 ? ShortTurn() : EndlessTurn(""),
                  absl::StrCat("session-", i));
    request.set_keep_partial(i % 4 == 1);
    streams.push_back(client.StartGenerate(request));
  }
  for (auto& stream : streams) EXPECT_TRUE(stream->ReadStarted());
  return streams;
}

// Of those turns, when the drain was too short for the endless ones.
void ExpectShortOnesWholeAndEndlessOnesCut(const std::vector<Answer>& answers) {
  for (size_t i = 0; i < answers.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_TRUE(answers[i].in_order);
    if (i % 2 == 0) {
      EXPECT_TRUE(answers[i].status.ok()) << answers[i].status;
      EXPECT_TRUE(answers[i].completed.has_value());
    } else {
      EXPECT_EQ(answers[i].status.code(), absl::StatusCode::kUnavailable)
          << answers[i].status;
      EXPECT_GT(answers[i].tokens.size(), 0u);
      // A fragment that was kept is told before the status.
      EXPECT_EQ(answers[i].completed.has_value(), i % 4 == 1);
    }
  }
}

// Health of a model says so, new turns are refused, and what changes nothing
// that runs is still answered.
void ExpectDraining(const TestServer& server) {
  HealthRequest of_model;
  of_model.set_service(kInduction);
  HealthResponse health;
  EXPECT_TRUE(CallOnce(server.address(), "/grpc.health.v1.Health/Check",
                       of_model, &health)
                  .ok());
  EXPECT_EQ(health.status(), HealthResponse::NOT_SERVING);
  const Answer late = server.client().Generate(TokenTurn("", {1}, 1));
  EXPECT_EQ(late.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(late.status.message()), HasSubstr("stopping"));
  EXPECT_TRUE(server.client().ListModels().ok());
}

TEST(Drain, UnderLoadEndsWhatFitsAndRefusesTheRest) {
  constexpr int kStreams = 32;
  ServerOptions options = InductionOptions(/*slots=*/kStreams);
  // Much longer than the short turns need: they compete with the endless ones,
  // which go on for three quarters of it.
  options.drain_timeout = absl::Seconds(Scaled(8, 40));
  TestServer server(options);

  const auto streams = StartShortAndEndlessTurns(server.client(), kStreams);
  auto watch = std::make_unique<GenericCall>(server.address(),
                                             "/grpc.health.v1.Health/Watch");
  HealthResponse health;
  ASSERT_TRUE(watch->Write(HealthRequest()));
  watch->WritesDone();
  ASSERT_TRUE(watch->Read(&health));
  ASSERT_EQ(health.status(), HealthResponse::SERVING);
  std::vector<Answer> answers(kStreams);
  std::vector<std::thread> readers;
  for (int i = 0; i < kStreams; ++i) {
    readers.emplace_back([&, i] { answers[i] = streams[i]->ReadAll(); });
  }

  const absl::Time begin = absl::Now();
  absl::Status drained = absl::UnknownError("did not return");
  std::thread drain([&] { drained = server.server().Drain(); });

  EXPECT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), HealthResponse::NOT_SERVING);
  watch.reset();
  ExpectDraining(server);

  for (std::thread& reader : readers) reader.join();
  drain.join();
  EXPECT_TRUE(drained.ok()) << drained;
  EXPECT_LT(absl::Now() - begin, options.drain_timeout + absl::Seconds(20));

  ExpectShortOnesWholeAndEndlessOnesCut(answers);
  EXPECT_EQ(server.client().Generate(TokenTurn("", {1}, 1)).status.code(),
            absl::StatusCode::kUnavailable);
}

TEST(Drain, EndsRequestsThatWaitAndStreamsWithoutATurn) {
  TestServer server(InductionOptions(/*slots=*/1));
  const auto idle = server.client().Converse();
  ASSERT_TRUE(idle->WriteTurn(TokenTurn("", {1}, 0)));
  ASSERT_TRUE(idle->ReadTurn().completed.has_value());
  const auto running = server.client().StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(running->ReadStarted());
  const auto waiting = server.client().StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(server.AwaitLoad(1, 1));
  EXPECT_TRUE(server.server().Drain().ok());
  EXPECT_EQ(running->ReadAll().status.code(), absl::StatusCode::kUnavailable);
  const Answer never_ran = waiting->ReadAll();
  EXPECT_EQ(never_ran.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(never_ran.started.has_value());
  EXPECT_FALSE(idle->Finish().ok());
}

TEST(Drain, OfAnIdleServerEndsWhatIsHeldOpen) {
  ServerOptions options = ZooOptions({kInduction});
  options.drain_timeout = absl::Minutes(5);
  TestServer server(options);
  const auto idle = server.client().Converse();
  ASSERT_TRUE(idle->WriteTurn(TokenTurn("", {1}, 0)));
  ASSERT_TRUE(idle->ReadTurn().completed.has_value());
  const auto unused = server.client().Converse();
  GenericCall watch(server.address(), "/grpc.health.v1.Health/Watch");
  HealthResponse health;
  ASSERT_TRUE(watch.Write(HealthRequest()));
  watch.WritesDone();
  ASSERT_TRUE(watch.Read(&health));

  const absl::Time begin = absl::Now();
  EXPECT_TRUE(server.server().Drain().ok());
  // Much less if nothing else goes on; but not what once was waited for.
  EXPECT_LT(absl::Now() - begin, absl::Seconds(4));
  for (const auto& stream : {idle.get(), unused.get()}) {
    const absl::Status status = stream->Finish();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr("stopping"));
  }
  EXPECT_TRUE(watch.Read(&health));
  EXPECT_EQ(health.status(), HealthResponse::NOT_SERVING);
  EXPECT_FALSE(watch.Read(&health));
  EXPECT_EQ(watch.Finish().code(), absl::StatusCode::kUnavailable);
}

TEST(Drain, WhatAClientHasYetToFetchIsNotThrownAway) {
  ServerOptions options = ZooOptions({kInduction});
  options.drain_timeout = kTestLimit;
  TestServer server(options);
  Relay relay(server.address());
  const TestClient client(relay.address());
  ASSERT_TRUE(client.ListModels().ok());
  relay.Hold(true);
  // An answer that fits into what the server's machine keeps.
  v1::GenerateRequest turn = EndlessTurn("");
  turn.mutable_stopping()->set_max_tokens(1500);
  const auto stream = client.StartGenerate(turn);
  ASSERT_TRUE(Eventually(
      [&] { return server.Metrics().Sum("generation_tokens_total") == 1500; }));
  std::thread drain([&] { EXPECT_TRUE(server.server().Drain().ok()); });
  ASSERT_TRUE(
      Eventually([&] { return server.Metrics().Sum("draining") == 1; }));
  // A client that goes on to speak to a connection that its server has closed
  // is answered with a reset, and loses what it has not read.
  bool broken = false;
  for (int i = 0; i < 20 && !broken; ++i) {
    relay.Speak();
    broken = relay.BrokenWithin(absl::Milliseconds(25));
  }
  EXPECT_FALSE(broken);
  relay.Hold(false);
  const Answer answer = stream->ReadAll();
  drain.join();
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.tokens.size(), 1500u);
  EXPECT_TRUE(answer.completed.has_value());
}

// Who does not read at all is waited for until the limit, and no longer.
TEST(Drain, EndsInItsLimitAlthoughNobodyReads) {
  ServerOptions options = ZooOptions({kInduction});
  options.drain_timeout = absl::Seconds(1);
  TestServer server(options);
  Relay relay(server.address());
  const TestClient client(relay.address());
  ASSERT_TRUE(client.ListModels().ok());
  relay.Hold(true);
  const auto stream = client.StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(server.AwaitLoad(1, 0));
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(server.server().Drain().ok());
  // A second more, and three for a machine that stalls.
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  stream->Cancel();
}

TEST(Drain, AnAddressInUseIsAClearError) {
  TestServer server(ZooOptions({kInduction}));
  ServerOptions options = ZooOptions({kInduction});
  options.grpc_address = server.address();
  const auto second = Server::Start(options);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(server.address()));
  options = ZooOptions({kInduction});
  options.metrics_address = server.server().metrics_address();
  const auto third = Server::Start(options);
  EXPECT_EQ(third.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(third.status().message()),
              HasSubstr("--metrics-address"));
}

}  // namespace
}  // namespace engram

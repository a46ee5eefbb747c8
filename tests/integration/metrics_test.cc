// The metrics port: every name of the design is there, and the numbers agree
// with the traffic that was sent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <regex>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "tests/support/folders.h"
#include "tests/support/http_connection.h"
#include "tests/support/key_file.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kOk[] = "code=\"OK\"";

constexpr const char* kFamilies[] = {"time_to_first_token_seconds",
                                     "inter_token_latency_seconds",
                                     "e2e_request_latency_seconds",
                                     "request_queue_time_seconds",
                                     "request_prefill_time_seconds",
                                     "request_decode_time_seconds",
                                     "step_duration_seconds",
                                     "step_rows",
                                     "step_tokens",
                                     "request_prompt_tokens",
                                     "request_generation_tokens",
                                     "num_requests_running",
                                     "num_requests_waiting",
                                     "slots",
                                     "slots_used",
                                     "sessions",
                                     "session_state_bytes",
                                     "state_usage_ratio",
                                     "build_info",
                                     "prompt_tokens_total",
                                     "generation_tokens_total",
                                     "requests_total",
                                     "session_evictions_total",
                                     "session_restores_total",
                                     "session_forks_total",
                                     "tokens_saved_total"};

// 4 + 6 prompt tokens and 5 + 3 sampled ones, of which 2 were received, on two
// sessions; a pending token that is fed; a fork, a restore, a score; one that
// stops, and one that is refused. `*resumed_answer`: of the second turn.
void MakeTraffic(const TestClient& client, Answer* resumed_answer) {
  ASSERT_TRUE(client
                  .Generate(OnSession(TokenTurn(kInduction, {1, 2, 3, 4}, 5),
                                      "private-session-id"))
                  .status.ok());
  ASSERT_TRUE(client.Fork("private-session-id", "another-private-id").ok());
  v1::GenerateRequest resumed = OnSession(
      TokenTurn(kInduction, {1, 2, 3, 4, 5, 6}, 3), "another-private-id");
  resumed.add_received_token_ids(1);
  resumed.add_received_token_ids(2);
  *resumed_answer = client.Generate(resumed);
  ASSERT_TRUE(resumed_answer->status.ok()) << resumed_answer->status;
  ASSERT_TRUE(client.Score(TokenScore(kInduction, {1, 2, 3})).ok());
  v1::GenerateRequest stopped = TokenTurn(kInduction, {1}, 50);
  for (int id = 0; id < 16; ++id) {
    stopped.mutable_stopping()->add_stop_token_ids(id);
  }
  ASSERT_TRUE(client.Generate(stopped).status.ok());
  EXPECT_FALSE(client.Generate(TokenTurn(kInduction, {99}, 1)).status.ok());
}

TEST(Metrics, EveryNameIsThereAndAgreesWithTheTraffic) {
  ServerOptions options = ZooOptions({kEnglish, kInduction});
  options.slots = 2;
  TestServer server(options);
  Answer resumed;
  ASSERT_NO_FATAL_FAILURE(MakeTraffic(server.client(), &resumed));

  const std::string model = "model=\"mamba-induction\"";
  ASSERT_TRUE(server.AwaitLoad(0, 0));
  const MetricsPage page = server.Metrics();
  for (const char* name : kFamilies) EXPECT_TRUE(page.HasFamily(name)) << name;

  EXPECT_EQ(
      page.Sum("requests_total", {model, "finish_reason=\"length\"", kOk}), 3);
  EXPECT_EQ(page.Sum("requests_total", {model, "finish_reason=\"stop\"", kOk}),
            1);
  EXPECT_EQ(page.Sum("requests_total", {model, "code=\"INVALID_ARGUMENT\""}),
            1);
  // Five that a model ran or refused, and the fork.
  EXPECT_EQ(page.Sum("requests_total"), 6);
  EXPECT_EQ(page.Sum("requests_total", {"method=\"Sessions.Fork\"", kOk}), 1);
  EXPECT_EQ(page.Sum("requests_total", {model, "method=\"Score\"", kOk}), 1);
  EXPECT_EQ(page.Sum("requests_total", {model, "method=\"Generate\""}), 4);
  EXPECT_EQ(page.Sum("requests_total", {"model=\"mamba-english\""}), 0);
  // 4; then the pending one, 6 and 2 received; then 3 scored and 1.
  EXPECT_EQ(page.Sum("prompt_tokens_total", {model}), 4 + 1 + 6 + 2 + 3 + 1);
  EXPECT_EQ(page.Sum("generation_tokens_total", {model}), 5 + 1 + 1);
  EXPECT_EQ(page.Sum("tokens_saved_total", {model}),
            resumed.completed->usage().cached_tokens());
  EXPECT_EQ(page.Sum("time_to_first_token_seconds_count", {model}), 3);
  EXPECT_EQ(page.Sum("inter_token_latency_seconds_count", {model}), 4);
  EXPECT_EQ(page.Sum("e2e_request_latency_seconds_count", {model}), 4);
  EXPECT_EQ(page.Sum("request_prompt_tokens_sum", {model}), 4 + 6 + 3 + 1);
  EXPECT_EQ(page.Sum("request_generation_tokens_sum", {model}), 5 + 3 + 1);
  EXPECT_EQ(page.Sum("step_tokens_sum", {model}),
            // All that was fed; the last token of each answer was not.
            4 + 4 + 1 + 6 + 2 + 0 + 3 + 1);
  EXPECT_EQ(page.Sum("session_forks_total", {model}), 1);
  EXPECT_EQ(page.Sum("session_restores_total", {model}), 1);
  EXPECT_EQ(page.Sum("session_evictions_total", {model, "to=\"none\""}), 0);
  EXPECT_EQ(page.Sum("sessions", {model}), 2);
  const double state_bytes =
      static_cast<double>(server.client().GetModel(kInduction)->state_bytes());
  const auto bytes = [&](const char* tier) {
    return page.Sum("session_state_bytes",
                    {model, absl::StrCat("tier=\"", tier, "\"")});
  };
  EXPECT_EQ(bytes("slot") + bytes("ram"), 2 * state_bytes);
  // The little that is kept besides of each session.
  EXPECT_GT(bytes("fields"), 0);
  EXPECT_LT(bytes("fields"), 16384);
  EXPECT_EQ(page.Sum("slots"), 4);
  EXPECT_EQ(page.Sum("build_info"), 2);
  EXPECT_GT(page.Sum("state_usage_ratio"), 0);
  EXPECT_LT(page.Sum("state_usage_ratio"), 1);
  EXPECT_THAT(page.text(), Not(HasSubstr("private")));
}

// What "engram_..." and "process_..." stands in a file of deploy/monitoring, in
// whatever language.
std::set<std::string> MetricsNamedIn(const std::string& file) {
  std::ifstream stream(SourceFile("deploy/monitoring/" + file));
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const std::regex pattern("\\b((engram|process)_[a-z0-9_]+)");
  std::set<std::string> names;
  for (std::sregex_iterator next(text.begin(), text.end(), pattern), end;
       next != end; ++next) {
    names.insert((*next)[1]);
  }
  return names;
}

TEST(Metrics, WhatTheDashboardAndTheAlertsAskForIsThere) {
  // With keys, of which some of them tell.
  TemporaryFolder folder;
  folder.Write("keys.json",
               KeysText({KeyEntry("all", "acme", R"("roles": ["admin"])")}));
  ServerOptions options = GoldenOptions({{"h3", "h3/hybrid"}});
  options.keys = folder.File("keys.json");
  TestServer server(options);
  const TestClient client(server.address(), KeyOf("all"));
  ASSERT_TRUE(client.Generate(TokenTurn("", {1, 2}, 3)).status.ok());
  ASSERT_TRUE(server.AwaitLoad(0, 0));
  const MetricsPage page = server.Metrics();
  const bool on_cpu = client.GetModel("")->backend() == "cpu";
  for (const char* file : {"dashboard.json", "alerts.yml"}) {
    const std::set<std::string> names = MetricsNamedIn(file);
    EXPECT_GT(names.size(), 5u) << file;
    for (const std::string& name : names) {
      // Only of a server with a certificate: tls_test.py looks at one.
      if (absl::StartsWith(name, "engram_tls_")) continue;
      // Only of one with a device, as where this test runs on CUDA.
      if (on_cpu && (absl::StartsWith(name, "engram_device_memory_") ||
                     absl::StartsWith(name, "engram_pinned_memory_"))) {
        continue;
      }
      absl::string_view family = name;
      for (const char* part : {"_bucket", "_sum", "_count"}) {
        absl::ConsumeSuffix(&family, part);
      }
      EXPECT_THAT(page.text(), HasSubstr(absl::StrCat("# TYPE ", family, " ")))
          << file << " asks for " << name;
    }
  }
}

TEST(Metrics, CountersOfErrorsAreThereBeforeTheFirst) {
  TestServer server(ZooOptions({kEnglish, kInduction}));
  const MetricsPage before = server.Metrics();
  const TestClient& client = server.client();
  EXPECT_FALSE(client.Generate(TokenTurn("", {1}, 1)).status.ok());
  EXPECT_FALSE(client.Generate(TokenTurn("unknown", {1}, 1)).status.ok());
  EXPECT_FALSE(client.Generate(TokenTurn(kInduction, {99}, 1)).status.ok());
  EXPECT_FALSE(client.Score(TokenScore(kEnglish, {})).ok());
  EXPECT_FALSE(client.Score(TokenScore(kEnglish, {1, 2}, "no-session")).ok());
  const auto cancelled = client.StartGenerate(EndlessTurn(kInduction));
  ASSERT_TRUE(cancelled->ReadStarted());
  cancelled->Cancel();
  EXPECT_FALSE(cancelled->ReadAll().status.ok());
  ASSERT_TRUE(client.Generate(TokenTurn(kInduction, {1}, 1)).status.ok());
  // The cancelled one ends when the engine comes to it.
  ASSERT_TRUE(
      Eventually([&] { return server.Metrics().Sum("requests_total") == 7; }));

  const MetricsPage after = server.Metrics();
  EXPECT_EQ(before.Sum("requests_total"), 0);
  const auto series = before.Samples("requests_total");
  EXPECT_GT(series.size(), 50u);
  EXPECT_THAT(after.Samples("requests_total"), ElementsAreArray(series));
}

TEST(Metrics, CallsWithoutATurnAreCountedByMethodAndCode) {
  TestServer server(ZooOptions({kEnglish, kInduction}));
  const TestClient& client = server.client();
  const std::vector<std::string> before = server.Metrics().Samples();
  v1::TokenizeRequest text;
  text.set_model(kEnglish);
  text.set_text("In the beginning");
  ASSERT_TRUE(client.Tokenize(text).ok());
  text.set_model("unknown");
  EXPECT_FALSE(client.Tokenize(text).ok());
  v1::DetokenizeRequest ids;
  ids.set_model(kEnglish);
  ids.add_token_ids(-1);
  EXPECT_FALSE(client.Detokenize(ids).ok());
  ASSERT_TRUE(client.ListModels().ok());
  EXPECT_FALSE(client.GetModel("unknown").ok());
  v1::CreateSessionRequest session;
  session.set_model(kEnglish);
  session.set_session_id("s");
  ASSERT_TRUE(client.CreateSession(session).ok());
  EXPECT_FALSE(client.CreateSession(session).ok());
  EXPECT_FALSE(client.GetSession("t").ok());
  ASSERT_TRUE(client.ListSessions(v1::ListSessionsRequest()).ok());
  ASSERT_TRUE(client.DeleteSession("s").ok());
  EXPECT_FALSE(client.Fork("s", "t").ok());
  EXPECT_FALSE(client.Checkpoint("s", "c").ok());
  EXPECT_TRUE(client.ListCheckpoints({}).ok());
  EXPECT_FALSE(client.DeleteCheckpoint("c").ok());

  const MetricsPage page = server.Metrics();
  const auto count = [&](const char* model, const char* method,
                         const char* code) {
    return page.Sum("requests_total", {absl::StrCat("model=\"", model, "\""),
                                       absl::StrCat("method=\"", method, "\""),
                                       absl::StrCat("code=\"", code, "\"")});
  };
  EXPECT_EQ(count(kEnglish, "Tokenize", "OK"), 1);
  EXPECT_EQ(count("", "Tokenize", "NOT_FOUND"), 1);
  EXPECT_EQ(count(kEnglish, "Detokenize", "INVALID_ARGUMENT"), 1);
  EXPECT_EQ(count("", "Models.List", "OK"), 1);
  EXPECT_EQ(count("", "Models.Get", "NOT_FOUND"), 1);
  EXPECT_EQ(count("", "Sessions.Create", "OK"), 1);
  EXPECT_EQ(count("", "Sessions.Create", "ALREADY_EXISTS"), 1);
  EXPECT_EQ(count("", "Sessions.Get", "NOT_FOUND"), 1);
  EXPECT_EQ(count("", "Sessions.List", "OK"), 1);
  EXPECT_EQ(count("", "Sessions.Delete", "OK"), 1);
  EXPECT_EQ(count("", "Sessions.Fork", "NOT_FOUND"), 1);
  EXPECT_EQ(count("", "Sessions.Checkpoint", "NOT_FOUND"), 1);
  EXPECT_EQ(count("", "Sessions.ListCheckpoints", "OK"), 1);
  EXPECT_EQ(count("", "Sessions.DeleteCheckpoint", "NOT_FOUND"), 1);
  EXPECT_EQ(page.Sum("requests_total"), 14);
  // No times of what no engine ran, and no series that was not there before.
  EXPECT_THAT(page.Samples(), ElementsAreArray(before));
}

TEST(Metrics, AModelWithoutTrafficTakesFewLines) {
  TestServer one(ZooOptions({kInduction}));
  TestServer two(ZooOptions({kEnglish, kInduction}));
  const size_t samples_of_a_model =
      two.Metrics().Samples().size() - one.Metrics().Samples().size();
  EXPECT_LT(samples_of_a_model, 80u);
  EXPECT_THAT(two.Metrics().text(), Not(HasSubstr("_bucket")));
}

TEST(Metrics, TellsOfTheProcessUnderTheUsualNames) {
  TestServer server(ZooOptions({kInduction}));
  const std::string text = server.Metrics().text();
  for (const char* name :
       {"process_cpu_seconds_total", "process_start_time_seconds",
        "process_resident_memory_bytes", "process_virtual_memory_bytes",
        "process_open_fds", "process_max_fds"}) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat("\n", name, " "))) << name;
  }
}

TEST(Metrics, ThePortServesProbesBesidesMetrics) {
  TestServer server(ZooOptions({kInduction}));
  const std::string& address = server.server().metrics_address();
  const HttpAnswer head = AskHttp(address, "HEAD", "/metrics");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.body, "");
  EXPECT_THAT(head.head, HasSubstr("text/plain; version=0.0.4"));
  EXPECT_EQ(AskHttp(address, "GET", "/healthz").status, 200);
  EXPECT_EQ(AskHttp(address, "GET", "/readyz").status, 200);
  EXPECT_EQ(AskHttp(address, "GET", "/").status, 404);
  EXPECT_EQ(AskHttp(address, "POST", "/metrics").status, 405);
  EXPECT_EQ(server.Metrics().Sum("draining"), 0);
}

TEST(Metrics, ADrainingServerIsAliveAndNotReady) {
  ServerOptions options = ZooOptions({kInduction});
  options.drain_timeout = kTestLimit;
  TestServer server(options);
  const std::string address = server.server().metrics_address();
  const auto running = server.client().StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(running->ReadStarted());
  std::thread drain([&] { EXPECT_TRUE(server.server().Drain().ok()); });
  EXPECT_TRUE(
      Eventually([&] { return server.Metrics().Sum("draining") == 1; }));
  const HttpAnswer ready = AskHttp(address, "GET", "/readyz");
  EXPECT_EQ(ready.status, 503);
  EXPECT_EQ(ready.body, "draining\n");
  EXPECT_EQ(AskHttp(address, "GET", "/healthz").status, 200);
  running->Cancel();
  drain.join();
}

TEST(Metrics, SilentConnectionsDoNotStopAScrape) {
  TestServer server(ZooOptions({kInduction}));
  std::vector<std::unique_ptr<HttpConnection>> silent;
  for (int i = 0; i < 100; ++i) {
    silent.push_back(
        std::make_unique<HttpConnection>(server.server().metrics_address()));
    ASSERT_TRUE(silent.back()->connected());
  }
  EXPECT_TRUE(server.Metrics().HasFamily("requests_total"));
}

TEST(Metrics, ACancelledRequestIsCountedAsSuch) {
  TestServer server(ZooOptions({kInduction}));
  v1::GenerateRequest request = OnSession(EndlessTurn(""), "s");
  request.set_keep_partial(true);
  const auto running = server.client().StartGenerate(request);
  v1::GenerateResponse response;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(running->Read(&response));
  EXPECT_EQ(server.Metrics().Sum("requests_total"), 0);
  running->Cancel();
  EXPECT_TRUE(Eventually([&] {
    return server.Metrics().Sum(
               "requests_total",
               {"finish_reason=\"cancelled\"", "code=\"CANCELLED\""}) == 1;
  }));
}

TEST(Metrics, ARequestForAnUnknownModelIsCountedWithoutItsName) {
  TestServer server(ZooOptions({kInduction}));
  EXPECT_FALSE(
      server.client().Generate(TokenTurn("no-such-model", {1}, 1)).status.ok());
  const MetricsPage page = server.Metrics();
  EXPECT_EQ(page.Sum("requests_total", {"model=\"\"", "method=\"Generate\"",
                                        "code=\"NOT_FOUND\""}),
            1);
  EXPECT_THAT(page.text(), Not(HasSubstr("no-such-model")));
}

}  // namespace
}  // namespace engram

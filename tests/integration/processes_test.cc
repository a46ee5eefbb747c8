// The programs as they are installed: the server as a process of its own, with
// signals, its log and the command line client.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tests/integration/child_process.h"
#include "tests/support/folders.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<std::string> ServeInduction() {
  return {"--model", ZooModel(kInduction), "--drain-timeout", "500ms"};
}

// The command line client against `server`.
std::unique_ptr<ChildProcess> RunClient(const ServerProcess& server,
                                        std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"--server", server.grpc_address()});
  return std::make_unique<ChildProcess>(ProgramFile("bin/engram"), arguments);
}

// Its whole output, line by line; it must end well.
std::vector<std::string> OutputOfClient(const ServerProcess& server,
                                        std::vector<std::string> arguments) {
  SCOPED_TRACE(absl::StrJoin(arguments, " "));
  const auto client = RunClient(server, std::move(arguments));
  std::vector<std::string> lines;
  while (auto line = client->ReadLine()) lines.push_back(*line);
  EXPECT_EQ(client->Wait(), 0) << client->ErrorOutput();
  return lines;
}

TEST(Processes, SigtermUnderLoadDrainsAndExitsWithZero) {
  ServerProcess server(ServeInduction());
  ASSERT_FALSE(server.grpc_address().empty()) << server.process().ErrorOutput();
  const TestClient client(server.grpc_address());
  std::vector<std::unique_ptr<GenerateStream>> streams;
  for (int i = 0; i < 8; ++i) {
    streams.push_back(client.StartGenerate(EndlessTurn("")));
    ASSERT_TRUE(streams.back()->ReadStarted());
  }
  std::vector<Answer> answers(streams.size());
  std::vector<std::thread> readers;
  for (size_t i = 0; i < streams.size(); ++i) {
    readers.emplace_back([&, i] { answers[i] = streams[i]->ReadAll(); });
  }
  server.process().Signal(SIGTERM);
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(server.process().Wait(), 0) << server.process().ErrorOutput();
  for (const Answer& answer : answers) {
    EXPECT_EQ(answer.status.code(), absl::StatusCode::kUnavailable)
        << answer.status;
  }
}

TEST(Processes, SigintEndsAnIdleServerWithZero) {
  ServerProcess server(ServeInduction());
  ASSERT_FALSE(server.grpc_address().empty());
  server.process().Signal(SIGINT);
  EXPECT_EQ(server.process().Wait(), 0);
}

TEST(Processes, WrongFlagsAndModelsAreClearErrors) {
  ChildProcess flag(ProgramFile("bin/engram-server"), {"--slots", "none"});
  EXPECT_EQ(flag.Wait(), 2);
  EXPECT_THAT(flag.ErrorOutput(), HasSubstr("--slots"));
  EXPECT_THAT(flag.ErrorOutput(), HasSubstr("none"));
  ChildProcess model(ProgramFile("bin/engram-server"),
                     {"--model", "x=/nowhere", "--metrics-address",
                      "127.0.0.1:0", "--grpc-address", "127.0.0.1:0"});
  EXPECT_EQ(model.Wait(), 1);
  EXPECT_THAT(model.ErrorOutput(), HasSubstr("/nowhere"));
}

// How many threads of a process have this name.
int CountThreads(pid_t process, const std::string& name) {
  namespace fs = std::filesystem;
  int count = 0;
  for (const auto& thread :
       fs::directory_iterator(absl::StrCat("/proc/", process, "/task"))) {
    std::ifstream file(thread.path() / "comm");
    std::string found;
    if (std::getline(file, found) && found == name) ++count;
  }
  return count;
}

TEST(Processes, AllModelsComputeOnTheSameThreads) {
  ServerProcess server({"--model", ZooModel(kInduction), "--model",
                        ZooModel("h3-induction"), "--model",
                        ZooModel("mamba2-induction"), "--threads", "3"});
  ASSERT_FALSE(server.grpc_address().empty()) << server.process().ErrorOutput();
  // The third is whichever engine calls.
  EXPECT_EQ(CountThreads(server.process().pid(), "engram-kernel"), 2);
}

TEST(Processes, MoreThreadsThanThereCanBeAreAClearError) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer has all of the address space";
  // Each thread has a stack of 8 MiB.
  ChildProcess server(
      "/bin/sh", {"-c", "ulimit -s 8192; ulimit -v 2000000; exec \"$@\"", "sh",
                  ProgramFile("bin/engram-server"), "--model",
                  ZooModel(kInduction), "--threads", "500", "--grpc-address",
                  "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"});
  EXPECT_EQ(server.Wait(), 1);
  EXPECT_THAT(server.ErrorOutput(), AllOf(HasSubstr("cannot start a thread"),
                                          HasSubstr("--threads takes fewer")));
}

// Of a request that had begun to answer when its deadline passed.
bool HasLineOfALateAnswer(const std::string& log) {
  for (absl::string_view text : absl::StrSplit(log, '\n')) {
    // The last one may be written just now.
    const json line = json::parse(std::string(text), nullptr, false);
    if (line.is_object() && line["event"] == "request" &&
        line.value("code", "") == "DEADLINE_EXCEEDED" &&
        line.value("generated_tokens", 0) > 0) {
      return true;
    }
  }
  return false;
}

TEST(Processes, EveryRequestIsALineOfJsonInTheLog) {
  ServerProcess server(ServeInduction());
  ASSERT_FALSE(server.grpc_address().empty());
  size_t late_calls = 0;
  {
    const TestClient client(server.grpc_address());
    ASSERT_TRUE(
        client.Generate(OnSession(TokenTurn("", {1, 2, 3}, 4), "logged", "one"))
            .status.ok());
    ASSERT_TRUE(client.Score(TokenScore("", {1, 2})).ok());
    // Until one has come to the server before its deadline passed.
    bool started = false;
    for (absl::Duration deadline = absl::Milliseconds(100);
         !started && deadline < kTestLimit; deadline *= 4) {
      ++late_calls;
      const auto late = client.StartGenerate(EndlessTurn(""), deadline);
      started = late->ReadStarted();
      ASSERT_EQ(late->ReadAll().status.code(),
                absl::StatusCode::kDeadlineExceeded);
    }
    ASSERT_TRUE(started);
  }
  // The client's clock ended that call: the server still has to see it.
  ASSERT_TRUE(Eventually(
      [&] { return HasLineOfALateAnswer(server.process().ErrorOutput()); }));
  server.process().Signal(SIGTERM);
  ASSERT_EQ(server.process().Wait(), 0);

  std::vector<json> requests;
  std::vector<std::string> events;
  const std::string log = server.process().ErrorOutput();
  for (absl::string_view text : absl::StrSplit(log, '\n', absl::SkipEmpty())) {
    const json line = json::parse(std::string(text), nullptr, false);
    ASSERT_TRUE(line.is_object()) << text;
    EXPECT_TRUE(line.contains("time"));
    EXPECT_TRUE(line.contains("level"));
    events.push_back(line["event"]);
    if (line["event"] == "request") requests.push_back(line);
  }
  events.erase(std::unique(events.begin(), events.end()), events.end());
  EXPECT_THAT(events,
              testing::ElementsAre("model_loaded", "listening", "request",
                                   "drain_begun", "drain_ended"));
  ASSERT_GE(requests.size(), 3u) << log;
  EXPECT_LE(requests.size(), 2 + late_calls) << log;
  const json& generate = requests[0];
  EXPECT_EQ(generate["model"], kInduction);
  EXPECT_EQ(generate["kind"], "generate");
  EXPECT_EQ(generate["session_id"], "logged");
  EXPECT_THAT(generate["peer"].get<std::string>(),
              testing::StartsWith("ipv4:127.0.0.1:"));
  EXPECT_EQ(generate["request_id"], "one");
  EXPECT_EQ(generate["code"], "OK");
  EXPECT_EQ(generate["finish_reason"], "length");
  EXPECT_EQ(generate["prompt_tokens"], 3);
  EXPECT_EQ(generate["generated_tokens"], 4);
  for (const char* time : {"queue_s", "prefill_s", "decode_s", "total_s"}) {
    EXPECT_TRUE(generate[time].is_number()) << time;
  }
  EXPECT_EQ(requests[1]["kind"], "score");
  EXPECT_EQ(requests.back()["code"], "DEADLINE_EXCEEDED");
}

TEST(Processes, ALogThatNobodyReadsStopsNoRequest) {
  // Some hundred lines fit into the pipe and the queue; the rest is counted.
  ServerProcess server({"--model", ZooModel(kInduction), "--drain-timeout",
                        "500ms", "--log-memory", "64KiB"},
                       StandardError::kUnread);
  ASSERT_FALSE(server.grpc_address().empty());
  const TestClient client(server.grpc_address());
  const auto dropped = [&] {
    const auto page = FetchMetrics(server.metrics_address());
    return page.ok() ? page->Sum("log_lines_dropped_total") : -1;
  };
  const v1::GenerateRequest request =
      OnSession(TokenTurn("", {1}, 0), std::string(100, 's'));
  int requests = 0;
  for (; requests < 20'000 && dropped() < 100; requests += 100) {
    RunAtOnce(4, [&](int) {
      for (int i = 0; i < 25; ++i) {
        ASSERT_TRUE(client.Generate(TokenTurn("", {1}, 0)).status.ok());
      }
    });
  }
  EXPECT_GE(dropped(), 100);
  ASSERT_TRUE(client.Generate(request).status.ok());

  // Who reads at last is told, and hears of the end.
  server.process().Signal(SIGTERM);
  const std::string log = server.process().ReadErrors();
  EXPECT_EQ(server.process().Wait(), 0);
  int64_t told = 0;
  std::string last;
  for (absl::string_view text : absl::StrSplit(log, '\n', absl::SkipEmpty())) {
    const json line = json::parse(std::string(text), nullptr, false);
    ASSERT_TRUE(line.is_object()) << text;
    last = line["event"];
    if (last == "log_lines_dropped") told += line["lines"].get<int64_t>();
  }
  EXPECT_GE(told, 100);
  EXPECT_EQ(last, "drain_ended");
}

TEST(Processes, ALogThatNobodyReadsDoesNotHoldTheEnd) {
  ServerProcess server(
      {"--model", ZooModel(kInduction), "--drain-timeout", "500ms"},
      StandardError::kUnread);
  ASSERT_FALSE(server.grpc_address().empty());
  const TestClient client(server.grpc_address());
  for (int i = 0; i < 400; ++i) {
    ASSERT_TRUE(client.Generate(TokenTurn("", {1}, 0)).status.ok());
  }
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 0);
}

TEST(Processes, WhatEndsTheServerIsSaidInTheLog) {
  ChildProcess model(ProgramFile("bin/engram-server"),
                     {"--model", "x=/nowhere", "--metrics-address",
                      "127.0.0.1:0", "--grpc-address", "127.0.0.1:0"});
  EXPECT_EQ(model.Wait(), 1);
  const json line = json::parse(model.ErrorOutput(), nullptr, false);
  ASSERT_TRUE(line.is_object()) << model.ErrorOutput();
  EXPECT_EQ(line["event"], "fatal");
  EXPECT_EQ(line["level"], "error");
  EXPECT_THAT(line["message"].get<std::string>(), HasSubstr("/nowhere"));
}

TEST(Processes, AClientThatIsKilledFreesItsSlotAndLeavesTheSessionAsItWas) {
  ServerProcess server(ServeInduction());
  ASSERT_FALSE(server.grpc_address().empty());
  const TestClient client(server.grpc_address());
  ASSERT_TRUE(
      client.Generate(OnSession(TokenTurn("", {1, 2, 3}, 0), "s")).status.ok());
  const auto victim = RunClient(
      server, {"generate", "--session", "s", "--tokens", "1,2", "--max-tokens",
               "1000000", "--temperature", "1", "--ignore-eos", "--json"});
  // Started, and a token.
  ASSERT_TRUE(victim->ReadLine().has_value()) << victim->ErrorOutput();
  ASSERT_TRUE(victim->ReadLine().has_value());
  const auto gauge = [&](const char* name) {
    const auto page = FetchMetrics(server.metrics_address());
    return page.ok() ? page->Sum(name) : -1;
  };
  ASSERT_TRUE(Eventually([&] { return gauge("num_requests_running") == 1; }));
  EXPECT_EQ(gauge("slots_used"), 2);
  victim->Signal(SIGKILL);
  EXPECT_EQ(victim->Wait(), 128 + SIGKILL);
  EXPECT_TRUE(Eventually([&] {
    return gauge("num_requests_running") == 0 && gauge("slots_used") == 1;
  }));
  const auto session = client.GetSession("s");
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(session->version(), 1);
  EXPECT_EQ(session->position(), 3);
}

TEST(Processes, WhatAKilledClientWantedKeptIsReplayedToTheNext) {
  ServerProcess server(ServeInduction());
  ASSERT_FALSE(server.grpc_address().empty());
  const std::vector<std::string> turn = {"generate",
                                         "--session",
                                         "s",
                                         "--tokens",
                                         "1,2",
                                         "--max-tokens",
                                         "1000000",
                                         "--temperature",
                                         "1",
                                         "--seed",
                                         "5",
                                         "--ignore-eos",
                                         "--keep-partial",
                                         "--request-id",
                                         "kept",
                                         "--expected-version",
                                         "0",
                                         "--json"};
  const auto victim = RunClient(server, turn);
  std::vector<std::string> seen;
  for (int i = 0; i < 4; ++i) {
    const auto line = victim->ReadLine();
    ASSERT_TRUE(line.has_value()) << victim->ErrorOutput();
    seen.push_back(*line);
  }
  victim->Signal(SIGKILL);
  victim->Wait();
  const TestClient client(server.grpc_address());
  ASSERT_TRUE(Eventually([&] { return client.GetSession("s").ok(); }));
  const std::vector<std::string> replay = OutputOfClient(server, turn);
  ASSERT_GT(replay.size(), seen.size());
  for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(replay[i], seen[i]);
  EXPECT_EQ(json::parse(replay.back())["completed"]["finish_reason"],
            "CANCELLED");
  EXPECT_EQ(client.GetSession("s")->version(), 1);
}

TEST(Processes, TheClientTellsWhatModelsAndSessionsCost) {
  const auto golden = [](const char* model) {
    return absl::StrCat(model, "=",
                        SourceFile(absl::StrCat("tests/golden/", model)));
  };
  ServerProcess server({"--model", golden("h3/hybrid_rotary"), "--model",
                        golden("attention/learned_positions"), "--model",
                        ZooModel(kInduction)});
  ASSERT_FALSE(server.grpc_address().empty());
  const TestClient client(server.grpc_address());
  const auto bytes = [&](const char* model) {
    return client.GetModel(model)->state_bytes();
  };
  const std::string models =
      absl::StrJoin(OutputOfClient(server, {"models"}), "\n");
  EXPECT_THAT(models,
              HasSubstr(absl::StrCat("a session costs ", bytes(kInduction),
                                     " bytes\n  weight hash")));
  EXPECT_THAT(models, HasSubstr(absl::StrCat(
                          "a session costs ", bytes("h3/hybrid_rotary"),
                          " bytes and 160 per token\n  weight hash")));
  // 28 floats of the last hidden state, which take up 256 bytes of a slot.
  EXPECT_THAT(models, HasSubstr("a session costs 256 bytes and 448 per token\n"
                                "  a sequence has at most 163 tokens\n"));

  // Two blocks of 32 tokens.
  ASSERT_TRUE(client
                  .Generate(OnSession(
                      TokenTurn("h3/hybrid_rotary", RandomIds(33, 31), 0), "s"))
                  .status.ok());
  const auto sessions = OutputOfClient(server, {"sessions", "list"});
  ASSERT_EQ(sessions.size(), 2u);
  EXPECT_THAT(sessions[0], HasSubstr("size"));
  EXPECT_THAT(sessions[1], HasSubstr("KiB"));
  EXPECT_THAT(
      absl::StrJoin(OutputOfClient(server, {"sessions", "get", "s"}), "\n"),
      HasSubstr(absl::StrCat("(", bytes("h3/hybrid_rotary") + 2 * 32 * 160,
                             " bytes)")));
}

TEST(Processes, TellTheirVersion) {
  for (const char* program :
       {"engram", "engram-server", "engram-bench", "engram-eval"}) {
    ChildProcess process(ProgramFile(absl::StrCat("bin/", program)),
                         {"--version"});
    EXPECT_THAT(process.ReadLine().value_or(""),
                testing::MatchesRegex(
                    absl::StrCat(program, " [0-9]+\\.[0-9]+\\.[0-9]+")));
    EXPECT_EQ(process.Wait(), 0);
  }
}

TEST(Processes, HealthIsTheExitCodeOfTheClient) {
  // Long enough for a server that drains to be asked.
  ServerProcess server({"--model", ZooModel(kInduction), "--drain-timeout",
                        absl::FormatDuration(kTestLimit)});
  ASSERT_FALSE(server.grpc_address().empty());
  EXPECT_THAT(OutputOfClient(server, {"health"}),
              testing::ElementsAre("SERVING"));
  EXPECT_THAT(OutputOfClient(server, {"health", kInduction, "--json"}),
              testing::ElementsAre(R"({"status":"SERVING"})"));
  const auto unknown = RunClient(server, {"health", "gpt"});
  EXPECT_EQ(unknown->Wait(), 1);

  const TestClient client(server.grpc_address());
  const auto stream = client.StartGenerate(EndlessTurn(""));
  ASSERT_TRUE(stream->ReadStarted());
  server.process().Signal(SIGTERM);
  const auto health = [&] {
    const auto asked = RunClient(server, {"health"});
    const std::string line = asked->ReadLine().value_or("");
    return std::make_pair(line, asked->Wait());
  };
  EXPECT_TRUE(Eventually([&] { return health().first != "SERVING"; }));
  EXPECT_EQ(health(), std::make_pair(std::string("NOT_SERVING"), 1));
  stream->Cancel();
  EXPECT_EQ(server.process().Wait(), 0);
  const auto gone = RunClient(server, {"health"});
  EXPECT_EQ(gone->Wait(), 1);
  EXPECT_THAT(gone->ErrorOutput(), HasSubstr("UNAVAILABLE"));
}

TEST(Processes, TheCommandLineClientTalksToTheServer) {
  ServerProcess server(
      {"--model", ZooModel(kInduction), "--model", ZooModel(kEnglish)});
  ASSERT_FALSE(server.grpc_address().empty());

  const auto events = OutputOfClient(
      server, {"generate", "--model", kEnglish, "--session", "mine", "--prompt",
               "And God said", "--max-tokens", "4", "--ignore-eos",
               "--request-id", "first", "--logprobs", "2", "--json"});
  ASSERT_EQ(events.size(), 6u);
  EXPECT_EQ(json::parse(events[0])["started"]["session_id"], "mine");
  EXPECT_EQ(json::parse(events[1])["token"]["top"].size(), 2u);
  EXPECT_EQ(json::parse(events[5])["completed"]["finish_reason"], "LENGTH");
  EXPECT_EQ(json::parse(events[5])["completed"]["version"], "1");

  // What it prints for people is the text that it was sent.
  const TestClient client(server.grpc_address());
  v1::GenerateRequest request = TextTurn(kEnglish, "And God said", 12);
  request.mutable_stopping()->set_ignore_eos(true);
  const auto text = OutputOfClient(
      server, {"generate", "--model", kEnglish, "--prompt", "And God said",
               "--max-tokens", "12", "--temperature", "0", "--ignore-eos"});
  EXPECT_EQ(absl::StrJoin(text, "\n"), client.Generate(request).text());

  const auto score = OutputOfClient(
      server, {"score", "--model", kInduction, "--tokens", "1,2,3", "--json"});
  ASSERT_EQ(score.size(), 1u);
  EXPECT_EQ(json::parse(score[0])["tokens"].size(), 3u);
  EXPECT_EQ(
      OutputOfClient(server, {"sessions", "fork", "mine", "yours", "--json"})
          .size(),
      1u);
  EXPECT_EQ(OutputOfClient(server, {"sessions", "list", "--json"}).size(), 1u);
  EXPECT_EQ(client.GetSession("yours")->version(), 1);
  OutputOfClient(server, {"sessions", "delete", "mine"});
  EXPECT_FALSE(client.GetSession("mine").ok());

  const auto models = OutputOfClient(server, {"models", "--json"});
  EXPECT_THAT(absl::StrJoin(models, ""), HasSubstr(kEnglish));
  const auto tokens = OutputOfClient(server, {"tokenize", "--model", kInduction,
                                              "--text", "3 1 =>", "--json"});
  EXPECT_THAT(absl::StrJoin(tokens, ""), HasSubstr("15"));
  const auto wrong =
      RunClient(server, {"generate", "--model", "gpt", "--prompt", "x"});
  EXPECT_EQ(wrong->Wait(), 1);
  EXPECT_THAT(wrong->ErrorOutput(), HasSubstr(kEnglish));
}

}  // namespace
}  // namespace engram

#include "server/options.h"

#include <cctype>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Environment = std::map<std::string, std::string>;

absl::StatusOr<ServerOptions> Parse(const std::vector<std::string>& arguments,
                                    const Environment& environment = {}) {
  return ParseOptions(arguments, [&](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

// The value of a flag as text, read from the options themselves.
using Shown = std::function<std::string(const ServerOptions&)>;

Shown Number(int64_t ServerOptions::*field) {
  return [=](const ServerOptions& options) {
    return absl::StrCat(options.*field);
  };
}
Shown Time(absl::Duration ServerOptions::*field) {
  return [=](const ServerOptions& options) {
    return absl::FormatDuration(options.*field);
  };
}
Shown Switch(bool ServerOptions::*field) {
  return [=](const ServerOptions& options) {
    return options.*field ? "on" : "off";
  };
}
Shown Text(std::string ServerOptions::*field) {
  return [=](const ServerOptions& options) { return options.*field; };
}

Shown File(std::string TlsFiles::*field) {
  return [=](const ServerOptions& options) { return options.tls.*field; };
}

struct FlagCase {
  std::string name;
  Shown shown;
  std::string default_value;                              // as shown
  std::vector<std::pair<std::string, std::string>> good;  // text, as shown
  std::vector<std::string> bad;
};

// Texts that are no duration, no size and no address.
std::vector<std::string> NoDuration() {
  return {"", "5 s", "-1s", "-1", "nan", "soon"};
}
std::vector<std::string> NoBytes() {
  return {"", "-1", "1KB", "1.5GiB", "GiB", "1025TiB", "9999999999999999999"};
}
std::vector<std::string> NoAddress() {
  return {"",      "8001",       ":8001",   "host",
          "host:", "host:65536", "host:-1", "host:http"};
}

constexpr const char* kMany = "2147483647";
constexpr const char* kTooMany = "2147483648";

// A flag that takes a whole number from `least` to `most`.
FlagCase CountCase(std::string name, int64_t ServerOptions::*field,
                   std::string default_value, std::string least,
                   std::string most, std::string too_few,
                   std::string too_many) {
  return {std::move(name),
          Number(field),
          std::move(default_value),
          {{least, least}, {most, most}},
          {too_few, too_many, "", "x", "1x", "1.5"}};
}

// One row per flag: every limit at its bounds and one past them.

std::vector<FlagCase> FlagsOfTheProgram() {
  return {
      {"model",
       [](const ServerOptions& options) {
         std::string all;
         for (const auto& [name, folder] : options.models) {
           absl::StrAppend(&all, name, "=", folder, ";");
         }
         return all;
       },
       "",
       {{"a=/b", "a=/b;"}, {"a=b=c", "a=b=c;"}},
       {"", "a", "=b", "a="}},
      {"zoo", Text(&ServerOptions::zoo), "", {{"/folder", "/folder"}}, {}},
      {"backend",
       [](const ServerOptions& options) {
         return options.backend == BackendKind::kAuto  ? "auto"
                : options.backend == BackendKind::kCpu ? "cpu"
                                                       : "cuda";
       },
       "auto",
       {{"cpu", "cpu"}, {"cuda", "cuda"}, {"auto", "auto"}},
       {"", "gpu", "CPU"}},
      {"devices",
       [](const ServerOptions& options) {
         return absl::StrJoin(options.devices, ";");
       },
       "",
       {{"all", ""}, {"0", "0"}, {"3,1", "3;1"}},
       {"", "-1", "1024", "0,0", "0,", "0;1", "first"}},
      CountCase("threads", &ServerOptions::threads, "0", "0", "1024", "-1",
                "1025"),
      CountCase("delivery-threads", &ServerOptions::delivery_threads, "1", "0",
                "1024", "-1", "1025"),
      {"grpc-address",
       Text(&ServerOptions::grpc_address),
       "127.0.0.1:8001",
       {{"0.0.0.0:0", "0.0.0.0:0"}, {"[::]:65535", "[::]:65535"}},
       NoAddress()},
      {"metrics-address",
       Text(&ServerOptions::metrics_address),
       "127.0.0.1:8002",
       {{"host:1", "host:1"}},
       NoAddress()},
      {"tls-certificate", File(&TlsFiles::certificate), "", {{"a", "a"}}, {""}},
      {"tls-key", File(&TlsFiles::key), "", {{"/a/b", "/a/b"}}, {""}},
      {"tls-client-ca", File(&TlsFiles::authorities), "", {{"a", "a"}}, {""}},
      {"keys", Text(&ServerOptions::keys), "", {{"a", "a"}}, {""}},
      {"reflection",
       [](const ServerOptions& options) {
         return options.reflection == ReflectionMode::kOn    ? "on"
                : options.reflection == ReflectionMode::kOff ? "off"
                                                             : "keyed";
       },
       "on",
       {{"off", "off"}, {"keyed", "keyed"}, {"on", "on"}},
       {"", "yes"}},
      {"insecure",
       Switch(&ServerOptions::insecure),
       "off",
       {{"on", "on"}, {"off", "off"}},
       {"", "yes", "true"}},
      {"import-unchecked-weights",
       Switch(&ServerOptions::import_unchecked_weights),
       "off",
       {{"on", "on"}, {"off", "off"}},
       {"", "yes", "true"}},
      {"drain-timeout",
       Time(&ServerOptions::drain_timeout),
       "30s",
       {{"0", "0"}, {"90s", "1m30s"}, {"5", "5s"}, {"inf", "inf"}},
       NoDuration()},
      {"request-log",
       Switch(&ServerOptions::request_log),
       "on",
       {{"off", "off"}, {"on", "on"}},
       {"", "yes", "true"}},
      {"deterministic",
       Switch(&ServerOptions::deterministic),
       "off",
       {{"on", "on"}, {"off", "off"}},
       {"", "yes", "1"}},
      {"log-memory",
       Number(&ServerOptions::log_memory),
       "8388608",
       {{"0", "0"}, {"64KiB", "65536"}, {"1024TiB", "1125899906842624"}},
       NoBytes()},
  };
}

std::vector<FlagCase> FlagsOfModelsAndSteps() {
  return {
      CountCase("slots", &ServerOptions::slots, "64", "1", "65536", "0",
                "65537"),
      {"weights",
       [](const ServerOptions& options) -> std::string {
         return options.weights.has_value() ? WeightFormatName(*options.weights)
                                            : "stored";
       },
       "stored",
       {{"f32", "f32"},
        {"bf16", "bf16"},
        {"f16", "f16"},
        {"int8", "int8"},
        {"int4", "int4"},
        {"stored", "stored"}},
       {"", "int2", "F32"}},
      CountCase("max-batch-tokens", &ServerOptions::max_batch_tokens, "512",
                "1", "1048576", "0", "1048577"),
      {"target-step-time",
       Time(&ServerOptions::target_step_time),
       "5ms",
       {{"0", "0"}, {"250us", "250us"}, {"inf", "inf"}},
       NoDuration()},
  };
}

std::vector<FlagCase> FlagsOfWhatWaits() {
  return {
      CountCase("max-queue", &ServerOptions::max_queue, "1024", "1", "1048576",
                "0", "1048577"),
      {"request-memory",
       Number(&ServerOptions::request_memory),
       "536870912",
       {{"0", "0"}, {"64KiB", "65536"}, {"2MiB", "2097152"}},
       NoBytes()},
      {"max-queue-time",
       Time(&ServerOptions::max_queue_time),
       "2s",
       {{"0", "0"}, {"500ms", "500ms"}, {"inf", "inf"}},
       NoDuration()},
      {"max-queue-bytes",
       Number(&ServerOptions::max_queue_bytes),
       "268435456",
       {{"0", "0"}, {"64KiB", "65536"}, {"1024TiB", "1125899906842624"}},
       NoBytes()},
      {"reply-memory",
       Number(&ServerOptions::reply_memory),
       "268435456",
       {{"0", "0"}, {"64KiB", "65536"}, {"1024TiB", "1125899906842624"}},
       NoBytes()},
  };
}

std::vector<FlagCase> FlagsOfSessions() {
  return {
      {"session-memory",
       Number(&ServerOptions::session_memory),
       "1073741824",
       {{"0", "0"},
        {"4096", "4096"},
        {"64KiB", "65536"},
        {"2MiB", "2097152"},
        {"1024TiB", "1125899906842624"}},
       NoBytes()},
      {"device-memory",
       Number(&ServerOptions::device_memory),
       "0",
       {{"0", "0"}, {"4096", "4096"}, {"64GiB", "68719476736"}},
       NoBytes()},
      {"pinned-memory",
       Number(&ServerOptions::pinned_memory),
       "0",
       {{"0", "0"}, {"4096", "4096"}, {"64GiB", "68719476736"}},
       NoBytes()},
      {"kv-memory",
       Number(&ServerOptions::kv_memory),
       "268435456",
       {{"0", "0"},
        {"4096", "4096"},
        {"64KiB", "65536"},
        {"2MiB", "2097152"},
        {"1024TiB", "1125899906842624"}},
       NoBytes()},
      {"max-answer-bytes",
       Number(&ServerOptions::max_answer_bytes),
       "8388608",
       {{"0", "0"}, {"64KiB", "65536"}, {"1024GiB", "1099511627776"}},
       NoBytes()},
      CountCase("remembered-turns", &ServerOptions::remembered_turns, "65536",
                "1", kMany, "0", kTooMany),
      {"session-ttl",
       Time(&ServerOptions::session_ttl),
       "24h",
       {{"500ms", "500ms"}, {"8766000h", "8766000h"}, {"inf", "inf"}},
       {"", "-1s", "soon", "8766001h"}},
      {"max-session-ttl",
       Time(&ServerOptions::max_session_ttl),
       "876600h",
       {{"1h", "1h"}, {"8766000h", "8766000h"}},
       {"", "-1s", "soon", "8766001h", "inf"}},
      CountCase("max-sessions", &ServerOptions::max_sessions, "100000", "1",
                kMany, "0", kTooMany),
      CountCase("max-checkpoints", &ServerOptions::max_checkpoints, "1000", "1",
                kMany, "0", kTooMany),
      CountCase("max-inspections", &ServerOptions::max_inspections, "32", "1",
                "1048576", "0", "1048577"),
      CountCase("max-inspected-tokens", &ServerOptions::max_inspected_tokens,
                "4096", "0", kMany, "-1", kTooMany),
      CountCase("max-edits", &ServerOptions::max_edits, "256", "1", "1048576",
                "0", "1048577"),
      CountCase("max-inspected-queries", &ServerOptions::max_inspected_queries,
                "256", "1", "1048576", "0", "1048577"),
      CountCase("max-departed", &ServerOptions::max_departed, "10000", "1",
                kMany, "0", kTooMany),
      CountCase("tenant-labels", &ServerOptions::tenant_labels, "100", "0",
                "1048576", "-1", "1048577"),
  };
}

std::vector<FlagCase> FlagsOfStreamsAndConnections() {
  return {
      CountCase("stream-tokens", &ServerOptions::stream_tokens, "256", "1",
                "1048576", "0", "1048577"),
      {"slow-reader-timeout",
       Time(&ServerOptions::slow_reader_timeout),
       "30s",
       {{"1m", "1m"}},
       NoDuration()},
      CountCase("max-streams", &ServerOptions::max_streams, "1024", "1",
                "1048576", "0", "1048577"),
      CountCase("max-connections", &ServerOptions::max_connections, "0", "0",
                "1048576", "-1", "1048577"),
      {"max-connection-idle",
       Time(&ServerOptions::max_connection_idle),
       "30m",
       {{"1m", "1m"}, {"inf", "inf"}},
       NoDuration()},
      {"max-connection-age",
       Time(&ServerOptions::max_connection_age),
       "inf",
       {{"1h", "1h"}, {"inf", "inf"}},
       NoDuration()},
      {"max-connection-age-grace",
       Time(&ServerOptions::max_connection_age_grace),
       "5m",
       {{"1m", "1m"}, {"inf", "inf"}},
       NoDuration()},
  };
}

std::vector<FlagCase> FlagsOfRequests() {
  return {
      CountCase("max-prompt-tokens", &ServerOptions::max_prompt_tokens,
                "1048576", "1", kMany, "0", kTooMany),
      CountCase("max-generated-tokens", &ServerOptions::max_generated_tokens,
                "1048576", "1", kMany, "0", kTooMany),
      CountCase("max-score-tokens", &ServerOptions::max_score_tokens, "65536",
                "1", kMany, "0", kTooMany),
      // gRPC counts bytes of a message in an int.
      {"max-message-bytes",
       Number(&ServerOptions::max_message_bytes),
       "16777216",
       {{"1MiB", "1048576"}, {kMany, kMany}},
       {"", "-1", "1KB", kTooMany, "2GiB"}},
      CountCase("max-logprobs", &ServerOptions::max_logprobs, "20", "0", "1000",
                "-1", "1001"),
      CountCase("max-stop-strings", &ServerOptions::max_stop_strings, "16", "0",
                "1000", "-1", "1001"),
      CountCase("max-stop-string-bytes", &ServerOptions::max_stop_string_bytes,
                "256", "1", "65536", "0", "65537"),
      CountCase("max-stop-token-ids", &ServerOptions::max_stop_token_ids, "256",
                "0", "1048576", "-1", "1048577"),
      CountCase("max-logit-bias", &ServerOptions::max_logit_bias, "1024", "0",
                "1048576", "-1", "1048577"),
      CountCase("max-labels", &ServerOptions::max_labels, "32", "0", "1000",
                "-1", "1001"),
      CountCase("max-score-alternatives",
                &ServerOptions::max_score_alternatives, "262144", "0", kMany,
                "-1", kTooMany),
      {"max-tokenize-bytes",
       Number(&ServerOptions::max_tokenize_bytes),
       "1048576",
       {{"0", "0"}, {"64KiB", "65536"}, {kMany, kMany}},
       {"", "-1", "1KB", kTooMany}},
      CountCase("max-detokenize-tokens", &ServerOptions::max_detokenize_tokens,
                "262144", "1", kMany, "0", kTooMany),
      CountCase("max-page-size", &ServerOptions::max_page_size, "1000", "1",
                "1048576", "0", "1048577"),
  };
}

std::vector<FlagCase> FlagCases() {
  std::vector<FlagCase> all;
  for (std::vector<FlagCase> (*flags)() :
       {FlagsOfTheProgram, FlagsOfModelsAndSteps, FlagsOfWhatWaits,
        FlagsOfSessions, FlagsOfStreamsAndConnections, FlagsOfRequests}) {
    for (FlagCase& flag : flags()) all.push_back(std::move(flag));
  }
  return all;
}

std::string EnvironmentName(std::string name) {
  for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return "ENGRAM_" + name;
}

TEST(Options, HasACaseHereForEveryFlag) {
  ServerOptions options;
  std::vector<std::string> flags;
  for (const OptionFlag& flag : OptionFlags(&options)) {
    flags.push_back(flag.name);
    EXPECT_EQ(flag.environment(), EnvironmentName(flag.name));
  }
  std::vector<std::string> cases;
  for (const FlagCase& one : FlagCases()) cases.push_back(one.name);
  EXPECT_THAT(cases, ::testing::UnorderedElementsAreArray(flags));
}

TEST(Options, HasDocumentedDefaults) {
  const absl::StatusOr<ServerOptions> options = Parse({});
  ASSERT_TRUE(options.ok());
  for (const FlagCase& flag : FlagCases()) {
    EXPECT_EQ(flag.shown(*options), flag.default_value) << flag.name;
  }
}

// The text of the default is one that the flag itself takes.
TEST(Options, TellsEachDefaultInHelp) {
  const std::string help = HelpText();
  for (const FlagCase& flag : FlagCases()) {
    EXPECT_THAT(help, HasSubstr(absl::StrCat("--", flag.name, " ")));
    if (flag.default_value.empty()) continue;  // a folder or a list of models
    ServerOptions fresh;
    for (OptionFlag& one : OptionFlags(&fresh)) {
      if (one.name != flag.name) continue;
      EXPECT_TRUE(one.set(one.default_text).ok()) << flag.name;
      EXPECT_THAT(help, HasSubstr("Default: " + one.default_text + "."));
    }
    EXPECT_EQ(flag.shown(fresh), flag.default_value) << flag.name;
  }
}

TEST(Options, TakesEachFlagFromTheCommandLine) {
  for (const FlagCase& flag : FlagCases()) {
    for (const auto& [text, shown] : flag.good) {
      SCOPED_TRACE(absl::StrCat("--", flag.name, "=", text));
      absl::StatusOr<ServerOptions> options =
          Parse({absl::StrCat("--", flag.name, "=", text)});
      ASSERT_TRUE(options.ok()) << options.status();
      EXPECT_EQ(flag.shown(*options), shown);
      options = Parse({absl::StrCat("--", flag.name), text});
      ASSERT_TRUE(options.ok()) << options.status();
      EXPECT_EQ(flag.shown(*options), shown);
    }
  }
}

TEST(Options, TakesEachFlagFromTheEnvironment) {
  for (const FlagCase& flag : FlagCases()) {
    for (const auto& [text, shown] : flag.good) {
      SCOPED_TRACE(absl::StrCat(flag.name, "=", text));
      const absl::StatusOr<ServerOptions> options =
          Parse({}, {{EnvironmentName(flag.name), text}});
      ASSERT_TRUE(options.ok()) << options.status();
      EXPECT_EQ(flag.shown(*options), shown);
    }
  }
}

TEST(Options, LetsTheCommandLineWin) {
  for (const FlagCase& flag : FlagCases()) {
    const auto& [text, shown] = flag.good.front();
    const absl::StatusOr<ServerOptions> options =
        Parse({absl::StrCat("--", flag.name, "=", text)},
              {{EnvironmentName(flag.name), flag.good.back().first}});
    ASSERT_TRUE(options.ok()) << options.status();
    EXPECT_EQ(flag.shown(*options), shown) << flag.name;
  }
}

TEST(Options, RefusesWhatIsOutOfRangeByNameAndValue) {
  for (const FlagCase& flag : FlagCases()) {
    for (const std::string& text : flag.bad) {
      SCOPED_TRACE(absl::StrCat("--", flag.name, "=", text));
      absl::Status status =
          Parse({absl::StrCat("--", flag.name, "=", text)}).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()),
                  AllOf(HasSubstr(absl::StrCat("--", flag.name)),
                        HasSubstr(absl::StrCat("\"", text, "\""))));
      if (flag.name == "model" && text.empty()) continue;  // no model in a list
      status = Parse({}, {{EnvironmentName(flag.name), text}}).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()),
                  AllOf(HasSubstr(EnvironmentName(flag.name)),
                        HasSubstr(absl::StrCat("\"", text, "\""))));
    }
  }
}

TEST(Options, TakesManyModels) {
  absl::StatusOr<ServerOptions> options =
      Parse({"--model", "a=/x", "--model=b=/y"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->models.size(), 2);
  options = Parse({}, {{"ENGRAM_MODEL", "a=/x,b=/y"}});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->models.size(), 2);
  EXPECT_EQ(options->models[1].second, "/y");
}

TEST(Options, RefusesAModelThatIsNamedTwice) {
  const absl::Status status = Parse({"--model=a=/x", "--model=a=/y"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"a\""));
}

TEST(Options, TakesAModelFromTheCommandLineInsteadOfTheEnvironment) {
  const absl::StatusOr<ServerOptions> options =
      Parse({"--model=a=/mine"}, {{"ENGRAM_MODEL", "a=/x,b=/y"}});
  ASSERT_TRUE(options.ok()) << options.status();
  ASSERT_EQ(options->models.size(), 1);
  EXPECT_EQ(options->models[0].second, "/mine");
}

TEST(Options, RefusesAnUnknownArgumentWithASuggestion) {
  const absl::Status status = Parse({"--max-queu=3"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr("--max-queu=3"), HasSubstr("did you mean --max-queue?")));
}

TEST(Options, RefusesAVariableThatNoFlagKnows) {
  EXPECT_TRUE(CheckVariables(
                  {"PATH=/bin", "ENGRAM_SLOTS=3", "ENGRAM_SERVER=localhost:1"})
                  .ok());
  const absl::Status status = CheckVariables({"ENGRAM_SLOT=3"});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("ENGRAM_SLOT "),
                    HasSubstr("did you mean ENGRAM_SLOTS?")));
}

TEST(Options, ASwitchAloneIsOn) {
  EXPECT_TRUE(Parse({"--insecure"})->insecure);
  const auto options = Parse({"--insecure", "--slots", "3"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_TRUE(options->insecure);
  EXPECT_EQ(options->slots, 3);
  EXPECT_FALSE(Parse({"--insecure", "off"})->insecure);
  EXPECT_FALSE(Parse({"--insecure", "perhaps"}).ok());
}

TEST(Options, RefusesAFlagWithoutItsValue) {
  const absl::Status status = Parse({"--slots"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("--slots"), HasSubstr("needs a value")));
}

}  // namespace
}  // namespace engram

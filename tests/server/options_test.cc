#include "server/options.h"

#include <cctype>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
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
Shown Text(std::string ServerOptions::*field) {
  return [=](const ServerOptions& options) { return options.*field; };
}

struct FlagCase {
  std::string name;
  Shown shown;
  std::string default_value;                              // as shown
  std::vector<std::pair<std::string, std::string>> good;  // text, as shown
  std::vector<std::string> bad;
};

// One row per flag: every limit at its bounds and one past them.
std::vector<FlagCase> FlagCases() {
  using O = ServerOptions;
  const std::vector<std::string> no_duration = {"",   "5 s", "-1s",
                                                "-1", "nan", "soon"};
  const std::vector<std::string> no_bytes = {
      "", "-1", "1KB", "1.5GiB", "GiB", "1025TiB", "9999999999999999999"};
  const std::vector<std::string> no_address = {
      "",      "8001",       ":8001",   "host",
      "host:", "host:65536", "host:-1", "host:http"};
  constexpr const char* kMany = "2147483647";
  constexpr const char* kTooMany = "2147483648";
  const auto number = [](std::string name, int64_t O::*field,
                         std::string default_value, std::string least,
                         std::string most, std::string too_few,
                         std::string too_many) {
    return FlagCase{std::move(name),
                    Number(field),
                    std::move(default_value),
                    {{least, least}, {most, most}},
                    {too_few, too_many, "", "x", "1x", "1.5"}};
  };
  return {
      {"model",
       [](const O& options) {
         std::string all;
         for (const auto& [name, folder] : options.models) {
           absl::StrAppend(&all, name, "=", folder, ";");
         }
         return all;
       },
       "",
       {{"a=/b", "a=/b;"}, {"a=b=c", "a=b=c;"}},
       {"", "a", "=b", "a="}},
      {"zoo", Text(&O::zoo), "", {{"/folder", "/folder"}}, {}},
      {"backend",
       [](const O& options) {
         return options.backend == BackendKind::kAuto  ? "auto"
                : options.backend == BackendKind::kCpu ? "cpu"
                                                       : "cuda";
       },
       "auto",
       {{"cpu", "cpu"}, {"cuda", "cuda"}, {"auto", "auto"}},
       {"", "gpu", "CPU"}},
      number("threads", &O::threads, "0", "0", "1024", "-1", "1025"),
      {"grpc-address",
       Text(&O::grpc_address),
       "127.0.0.1:8001",
       {{"0.0.0.0:0", "0.0.0.0:0"}, {"[::]:65535", "[::]:65535"}},
       no_address},
      {"metrics-address",
       Text(&O::metrics_address),
       "127.0.0.1:8002",
       {{"host:1", "host:1"}},
       no_address},
      {"drain-timeout",
       Time(&O::drain_timeout),
       "30s",
       {{"0", "0"}, {"90s", "1m30s"}, {"5", "5s"}, {"inf", "inf"}},
       no_duration},
      {"request-log",
       [](const O& options) { return options.request_log ? "on" : "off"; },
       "on",
       {{"off", "off"}, {"on", "on"}},
       {"", "yes", "true"}},
      {"log-memory",
       Number(&O::log_memory),
       "8388608",
       {{"0", "0"}, {"64KiB", "65536"}, {"1024TiB", "1125899906842624"}},
       no_bytes},
      number("slots", &O::slots, "64", "1", "65536", "0", "65537"),
      {"weights",
       [](const O& options) -> std::string {
         return options.weights.has_value() ? WeightFormatName(*options.weights)
                                            : "stored";
       },
       "stored",
       {{"f32", "f32"}, {"bf16", "bf16"}, {"f16", "f16"}, {"stored", "stored"}},
       {"", "int8", "F32"}},
      number("max-batch-tokens", &O::max_batch_tokens, "512", "1", "1048576",
             "0", "1048577"),
      {"target-step-time",
       Time(&O::target_step_time),
       "5ms",
       {{"0", "0"}, {"250us", "250us"}, {"inf", "inf"}},
       no_duration},
      number("max-queue", &O::max_queue, "1024", "1", "1048576", "0",
             "1048577"),
      {"request-memory",
       Number(&O::request_memory),
       "536870912",
       {{"0", "0"}, {"64KiB", "65536"}, {"2MiB", "2097152"}},
       no_bytes},
      {"max-queue-time",
       Time(&O::max_queue_time),
       "2s",
       {{"0", "0"}, {"500ms", "500ms"}, {"inf", "inf"}},
       no_duration},
      {"max-queue-bytes",
       Number(&O::max_queue_bytes),
       "268435456",
       {{"0", "0"}, {"64KiB", "65536"}, {"1024TiB", "1125899906842624"}},
       no_bytes},
      {"reply-memory",
       Number(&O::reply_memory),
       "268435456",
       {{"0", "0"}, {"64KiB", "65536"}, {"1024TiB", "1125899906842624"}},
       no_bytes},
      {"session-memory",
       Number(&O::session_memory),
       "1073741824",
       {{"0", "0"},
        {"4096", "4096"},
        {"64KiB", "65536"},
        {"2MiB", "2097152"},
        {"1024TiB", "1125899906842624"}},
       no_bytes},
      {"kv-memory",
       Number(&O::kv_memory),
       "268435456",
       {{"0", "0"},
        {"4096", "4096"},
        {"64KiB", "65536"},
        {"2MiB", "2097152"},
        {"1024TiB", "1125899906842624"}},
       no_bytes},
      {"max-answer-bytes",
       Number(&O::max_answer_bytes),
       "8388608",
       {{"0", "0"}, {"64KiB", "65536"}, {"1024GiB", "1099511627776"}},
       no_bytes},
      number("remembered-turns", &O::remembered_turns, "65536", "1", kMany, "0",
             kTooMany),
      {"session-ttl",
       Time(&O::session_ttl),
       "24h",
       {{"500ms", "500ms"}, {"8766000h", "8766000h"}, {"inf", "inf"}},
       {"", "-1s", "soon", "8766001h"}},
      {"max-session-ttl",
       Time(&O::max_session_ttl),
       "876600h",
       {{"1h", "1h"}, {"8766000h", "8766000h"}},
       {"", "-1s", "soon", "8766001h", "inf"}},
      number("max-sessions", &O::max_sessions, "100000", "1", kMany, "0",
             kTooMany),
      number("max-departed", &O::max_departed, "10000", "1", kMany, "0",
             kTooMany),
      number("stream-tokens", &O::stream_tokens, "256", "1", "1048576", "0",
             "1048577"),
      {"slow-reader-timeout",
       Time(&O::slow_reader_timeout),
       "30s",
       {{"1m", "1m"}},
       no_duration},
      number("max-prompt-tokens", &O::max_prompt_tokens, "1048576", "1", kMany,
             "0", kTooMany),
      number("max-generated-tokens", &O::max_generated_tokens, "1048576", "1",
             kMany, "0", kTooMany),
      number("max-score-tokens", &O::max_score_tokens, "65536", "1", kMany, "0",
             kTooMany),
      // gRPC counts bytes of a message in an int.
      {"max-message-bytes",
       Number(&O::max_message_bytes),
       "16777216",
       {{"1MiB", "1048576"}, {kMany, kMany}},
       {"", "-1", "1KB", kTooMany, "2GiB"}},
      number("max-streams", &O::max_streams, "1024", "1", "1048576", "0",
             "1048577"),
      number("max-connections", &O::max_connections, "0", "0", "1048576", "-1",
             "1048577"),
      {"max-connection-idle",
       Time(&O::max_connection_idle),
       "30m",
       {{"1m", "1m"}, {"inf", "inf"}},
       no_duration},
      {"max-connection-age",
       Time(&O::max_connection_age),
       "inf",
       {{"1h", "1h"}, {"inf", "inf"}},
       no_duration},
      {"max-connection-age-grace",
       Time(&O::max_connection_age_grace),
       "5m",
       {{"1m", "1m"}, {"inf", "inf"}},
       no_duration},
      number("max-logprobs", &O::max_logprobs, "20", "0", "1000", "-1", "1001"),
      number("max-stop-strings", &O::max_stop_strings, "16", "0", "1000", "-1",
             "1001"),
      number("max-stop-string-bytes", &O::max_stop_string_bytes, "256", "1",
             "65536", "0", "65537"),
      number("max-stop-token-ids", &O::max_stop_token_ids, "256", "0",
             "1048576", "-1", "1048577"),
      number("max-logit-bias", &O::max_logit_bias, "1024", "0", "1048576", "-1",
             "1048577"),
      number("max-labels", &O::max_labels, "32", "0", "1000", "-1", "1001"),
      number("max-score-alternatives", &O::max_score_alternatives, "262144",
             "0", kMany, "-1", kTooMany),
      {"max-tokenize-bytes",
       Number(&O::max_tokenize_bytes),
       "1048576",
       {{"0", "0"}, {"64KiB", "65536"}, {kMany, kMany}},
       {"", "-1", "1KB", kTooMany}},
      number("max-detokenize-tokens", &O::max_detokenize_tokens, "262144", "1",
             kMany, "0", kTooMany),
      number("max-page-size", &O::max_page_size, "1000", "1", "1048576", "0",
             "1048577"),
  };
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

TEST(Options, RefusesAFlagWithoutItsValue) {
  const absl::Status status = Parse({"--slots"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("--slots"), HasSubstr("needs a value")));
}

}  // namespace
}  // namespace engram

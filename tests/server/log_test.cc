#include "server/log.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "gtest/gtest.h"

namespace engram {
namespace {

using Json = nlohmann::json;

// Parses what must be one line of valid JSON.
Json ParseLine(const LogFields& fields) {
  const std::string line =
      LogLine(absl::FromUnixSeconds(0), LogLevel::kInfo, "event", fields);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const Json parsed = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(parsed.is_discarded()) << line;
  return parsed;
}

TEST(Log, WritesTimeEventAndFieldsInOrder) {
  EXPECT_EQ(LogLine(absl::FromUnixMillis(1500), LogLevel::kWarning, "end",
                    {{"a", "x"}, {"b", int64_t{-3}}, {"c", 0.25}}),
            R"({"time":"1970-01-01T00:00:01.500000Z","level":"warning",)"
            R"("event":"end",)"
            R"("a":"x","b":-3,"c":0.250000})");
}

TEST(Log, QuotesWhateverIsInAText) {
  std::string text = "a \"quoted\" \\ line\nwith\ttabs, \x7f and ";
  for (char control = 0; control < 0x20; ++control) text += control;
  text += "\xc3\xbc\xe2\x82\xac";
  EXPECT_EQ(ParseLine({{"text", text}})["text"], text);
}

TEST(Log, ReplacesBytesThatAreNotUtf8) {
  const Json line = ParseLine({{"text", std::string("a\xff\xe2\x82z\xc3")}});
  const std::string text = line["text"];
  EXPECT_EQ(text, "a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd");
}

TEST(Log, WritesNullForWhatIsNoNumber) {
  const Json line =
      ParseLine({{"nan", std::numeric_limits<double>::quiet_NaN()},
                 {"infinite", std::numeric_limits<double>::infinity()}});
  EXPECT_TRUE(line["nan"].is_null());
  EXPECT_TRUE(line["infinite"].is_null());
}

TEST(Log, DescribesARequest) {
  RequestSummary request;
  request.model = "m";
  request.kind = "generate";
  request.method = "Generate";
  request.session_id = "s";
  request.request_id = "r";
  request.status = absl::CancelledError("the \"client\"\nleft");
  request.usage.prompt_tokens = 7;
  request.timing.queue = absl::Milliseconds(1500);
  const Json line = ParseLine(DescribeRequest(request));
  EXPECT_EQ(line["model"], "m");
  EXPECT_EQ(line["method"], "Generate");
  EXPECT_EQ(line["session_id"], "s");
  EXPECT_EQ(line["request_id"], "r");
  EXPECT_EQ(line["code"], "CANCELLED");
  EXPECT_EQ(line["message"], "the \"client\"\nleft");
  EXPECT_EQ(line["prompt_tokens"], 7);
  EXPECT_EQ(line["queue_s"], 1.5);
}

TEST(Log, SaysNothingOfAGoodEndBesidesItsCode) {
  RequestSummary request;
  request.finish_reason = "stop";
  const Json line = ParseLine(DescribeRequest(request));
  EXPECT_EQ(line["code"], "OK");
  EXPECT_EQ(line["finish_reason"], "stop");
  EXPECT_FALSE(line.contains("message"));
}

}  // namespace
}  // namespace engram

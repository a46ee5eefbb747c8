#include "clients/cpp/json.h"

#include <gtest/gtest.h>

#include "engram/v1/generation.pb.h"
#include "engram/v1/sessions.pb.h"

namespace engram::client {
namespace {

TEST(ToJsonLine, WritesZerosAndProtoNames) {
  v1::GenerateResponse response;
  response.mutable_token()->set_text("a\n\"\xc3\xa9");
  response.mutable_token()->set_bytes("a\xff");
  EXPECT_EQ(*ToJsonLine(response),
            "{\"token\":{\"index\":0,\"id\":0,\"text\":\"a\\n\\\"\xc3\xa9\","
            "\"bytes\":\"Yf8=\",\"top\":[]}}");
}

TEST(ToJsonLine, WritesLogprobOnlyIfThereIsOne) {
  v1::Token token;
  EXPECT_EQ(ToJsonLine(token)->find("logprob"), std::string::npos);
  token.set_logprob(0);
  EXPECT_NE(ToJsonLine(token)->find("\"logprob\":0"), std::string::npos);
  token.set_logprob(-1.5f);
  EXPECT_NE(ToJsonLine(token)->find("\"logprob\":-1.5"), std::string::npos);
}

TEST(ToJsonLine, WritesLargeNumbersAsStringsAndEnumsByName) {
  v1::GenerateResponse response;
  response.mutable_completed()->set_finish_reason(v1::STOP);
  response.mutable_completed()->set_version(9007199254740993);
  const std::string line = *ToJsonLine(response);
  EXPECT_NE(line.find("\"version\":\"9007199254740993\""), std::string::npos)
      << line;
  EXPECT_NE(line.find("\"finish_reason\":\"STOP\""), std::string::npos) << line;
}

TEST(ToJsonLine, WritesStartedWithItsFirstVersion) {
  v1::GenerateResponse response;
  response.mutable_started()->set_session_id("s");
  EXPECT_EQ(*ToJsonLine(response),
            "{\"started\":{\"session_id\":\"s\",\"request_id\":\"\","
            "\"version\":\"0\",\"position\":\"0\",\"cached_tokens\":\"0\","
            "\"seed\":\"0\"}}");
}

TEST(ToJsonLine, FailsForATimeThatJsonCannotTell) {
  v1::Session session;
  session.mutable_expire_time()->set_seconds(int64_t{1} << 40);
  const absl::Status status = ToJsonLine(session).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("JSON"), std::string::npos) << status;
}

}  // namespace
}  // namespace engram::client

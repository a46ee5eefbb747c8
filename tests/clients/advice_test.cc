#include "clients/cpp/advice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "clients/cpp/call_end.h"

namespace engram::client {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string AdviceOn(CallEnd end, absl::Status status) {
  return Advice(WithEnd(end, std::move(status)), "engram generate", "host:1");
}

TEST(Advice, AsksForAServerOnlyIfNoneWasReached) {
  EXPECT_THAT(AdviceOn(CallEnd::kNotReached, absl::UnavailableError("x")),
              HasSubstr("is a server running at host:1?"));
  EXPECT_THAT(AdviceOn(CallEnd::kNotReached, absl::DeadlineExceededError("x")),
              HasSubstr("is a server running at host:1?"));
  EXPECT_THAT(AdviceOn(CallEnd::kNotReached,
                       absl::UnavailableError("failed to connect to all "
                                              "addresses; last error: Failed "
                                              "parsing HTTP/2")),
              HasSubstr("is it the port of the metrics?"));
  EXPECT_THAT(AdviceOn(CallEnd::kBroken, absl::UnavailableError("x")),
              HasSubstr("the connection to host:1 broke"));
  const std::string full =
      AdviceOn(CallEnd::kAnswered, absl::UnavailableError("the queue is full"));
  EXPECT_THAT(full, HasSubstr("try again later"));
  EXPECT_THAT(full, Not(HasSubstr("running at")));
}

TEST(Advice, TellsAnOlderServerFromOneThatLacksSomething) {
  EXPECT_EQ(AdviceOn(CallEnd::kAnswered,
                     absl::UnimplementedError("echo: not by this server")),
            "");
  for (const char* message :
       {"", "unknown method Generate", "Method not found!"}) {
    EXPECT_THAT(AdviceOn(CallEnd::kAnswered, absl::UnimplementedError(message)),
                HasSubstr("does not know this call"));
  }
  EXPECT_THAT(
      AdviceOn(CallEnd::kUnknown, absl::UnimplementedError("HTTP status 404")),
      HasSubstr("does not know this call"));
}

TEST(Advice, PointsToTheLogOnlyForWhatTheServerSaid) {
  EXPECT_THAT(AdviceOn(CallEnd::kAnswered, absl::InternalError("x")),
              HasSubstr("the server's log"));
  EXPECT_THAT(AdviceOn(CallEnd::kUnknown, absl::InternalError("x")),
              Not(HasSubstr("log")));
}

TEST(Advice, TellsWhatIsWrongWithAKeyFromWhoElseRefuses) {
  EXPECT_THAT(AdviceOn(CallEnd::kAnswered,
                       absl::UnauthenticatedError(
                           "no key: send metadata authorization: Bearer KEY")),
              HasSubstr("--api-key-file FILE"));
  EXPECT_THAT(
      AdviceOn(CallEnd::kAnswered, absl::UnauthenticatedError("unknown key")),
      HasSubstr("meant for host:1?"));
  EXPECT_THAT(AdviceOn(CallEnd::kAnswered,
                       absl::PermissionDeniedError("key \"a\" has no role")),
              HasSubstr("give yours the role"));
  EXPECT_THAT(AdviceOn(CallEnd::kAnswered,
                       absl::PermissionDeniedError("engram-tenant: no")),
              HasSubstr("--tenant"));
  EXPECT_THAT(AdviceOn(CallEnd::kAnswered,
                       absl::NotFoundError("engram-tenant: there is none")),
              HasSubstr("--tenant or $ENGRAM_TENANT"));
  for (const absl::Status& other :
       {absl::UnauthenticatedError("HTTP status 401"),
        absl::PermissionDeniedError("HTTP status 403")}) {
    EXPECT_THAT(AdviceOn(CallEnd::kUnknown, other),
                HasSubstr("is what listens at host:1 a proxy"));
  }
}

TEST(Advice, FitsWhatFailed) {
  EXPECT_THAT(AdviceOn(CallEnd::kUnknown, absl::DeadlineExceededError("x")),
              HasSubstr("--deadline"));
  EXPECT_THAT(AdviceOn(CallEnd::kAnswered, absl::InvalidArgumentError("x")),
              HasSubstr("`engram generate --help`"));
  EXPECT_THAT(AdviceOn(CallEnd::kAnswered,
                       absl::FailedPreconditionError("it has version 3")),
              HasSubstr("engram sessions get"));
  EXPECT_EQ(AdviceOn(CallEnd::kAnswered,
                     absl::FailedPreconditionError("there is no tokenizer")),
            "");
  EXPECT_THAT(AdviceOn(CallEnd::kAnswered,
                       absl::ResourceExhaustedError(
                           "Received message larger than max (5 vs. 4)")),
              HasSubstr("--max-message-bytes"));
  EXPECT_THAT(AdviceOn(CallEnd::kAnswered,
                       absl::NotFoundError("there is no session \"s\"")),
              HasSubstr("engram sessions list"));
  EXPECT_THAT(AdviceOn(CallEnd::kAnswered,
                       absl::NotFoundError("there is no checkpoint \"c\"")),
              HasSubstr("engram checkpoints list"));
  EXPECT_EQ(AdviceOn(CallEnd::kAnswered, absl::CancelledError("deleted")), "");
}

}  // namespace
}  // namespace engram::client

#include "server/tcp_address.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::Field;

auto Parts(const char* host, const char* port) {
  return AllOf(Field(&TcpAddress::host, host), Field(&TcpAddress::port, port));
}

TEST(TcpAddress, HasAHostWithoutBracketsAndAPort) {
  EXPECT_THAT(SplitAddress("localhost:80"), Parts("localhost", "80"));
  EXPECT_THAT(SplitAddress("0.0.0.0:0"), Parts("0.0.0.0", "0"));
  EXPECT_THAT(SplitAddress("[::1]:8001"), Parts("::1", "8001"));
  EXPECT_THAT(SplitAddress("[::]:8001"), Parts("::", "8001"));
}

TEST(TcpAddress, KeepsItsHostWithAnotherPort) {
  EXPECT_EQ(WithPort("[::1]:0", 8001), "[::1]:8001");
  EXPECT_EQ(WithPort("localhost:0", 80), "localhost:80");
}

TEST(TcpAddress, ThatNobodyHasIsNotFound) {
  EXPECT_EQ(Resolve({"no host", "1"}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(TcpAddress, OfLoopbackIsToldFromAllOthers) {
  for (const char* host :
       {"127.0.0.1", "127.9.8.7", "::1", "localhost", "::ffff:127.0.0.1"}) {
    EXPECT_TRUE(*IsLoopback({host, "1"})) << host;
  }
  for (const char* host : {"0.0.0.0", "::", "128.0.0.1", "192.0.2.1",
                           "2001:db8::1", "::ffff:192.0.2.1"}) {
    EXPECT_FALSE(*IsLoopback({host, "1"})) << host;
  }
  EXPECT_EQ(IsLoopback({"no host", "1"}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(TcpAddress, IsListenedOnByOneSocketAtATime) {
  const auto any = Resolve({"127.0.0.1", "0"}, AI_NUMERICSERV | AI_PASSIVE);
  ASSERT_TRUE(any.ok()) << any.status();
  const int first = ListenOn(**any);
  ASSERT_GE(first, 0);
  const auto taken =
      Resolve({"127.0.0.1", std::to_string(PortOf(first))}, AI_NUMERICSERV);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(ListenOn(**taken), -1);
  EXPECT_EQ(errno, EADDRINUSE);
  close(first);
  const int again = ListenOn(**taken);
  EXPECT_GE(again, 0);
  close(again);
}

}  // namespace
}  // namespace engram

#include "clients/cpp/server_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace engram::client {
namespace {

using ::testing::HasSubstr;

TEST(ServerAddress, HasPort8001UnlessItIsGiven) {
  struct Case {
    const char* text;
    const char* address;
  };
  for (const Case& one : {
           Case{"localhost", "localhost:8001"},
           Case{"localhost:9", "localhost:9"},
           Case{"127.0.0.1", "127.0.0.1:8001"},
           Case{"a-b.example.org:65535", "a-b.example.org:65535"},
           Case{"my_service", "my_service:8001"},
           Case{"[::1]", "[::1]:8001"},
           Case{"[::1]:7", "[::1]:7"},
           Case{"::1", "[::1]:8001"},
           Case{"fe80::1%eth0", "[fe80::1%eth0]:8001"},
           Case{"http://localhost:7", "localhost:7"},
           Case{"HTTP://localhost/", "localhost:8001"},
           Case{"http://[::1]:7", "[::1]:7"},
           Case{"grpc://localhost", "localhost:8001"},
           Case{"unix:/run/engram", "unix:/run/engram"},
           Case{"unix-abstract:engram", "unix-abstract:engram"},
           Case{"dns:///localhost:7", "dns:///localhost:7"},
           Case{"ipv4:127.0.0.1:7", "ipv4:127.0.0.1:7"},
       }) {
    const absl::StatusOr<std::string> address = ParseServerAddress(one.text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(*address, one.address);
    // What it gives, it takes.
    EXPECT_EQ(ParseServerAddress(*address).value_or(""), *address);
  }
}

TEST(ServerAddress, RefusesWhatIsNoneByName) {
  struct Case {
    std::string text;
    const char* error;
  };
  for (const Case& wrong : {
           Case{"", "give HOST:PORT"},
           Case{"https://localhost:8001", "asks for TLS"},
           Case{"grpcs://localhost", "asks for TLS"},
           Case{"ftp://localhost", "begins with ftp://"},
           Case{"http://localhost/v1", "has a path"},
           Case{"http://", "has no host"},
           Case{"8001", "give localhost:8001"},
           Case{":8001", "has no host"},
           Case{"localhost:", "port ''"},
           Case{"localhost:http", "port 'http'"},
           Case{"localhost:0", "1 to 65535"},
           Case{"localhost:65536", "1 to 65535"},
           Case{"localhost:-1", "1 to 65535"},
           Case{"localhost:80:01", "several colons"},
           Case{"[::1", "without a ]"},
           Case{"[localhost]:1", "no IPv6 address"},
           Case{"[::1]8001", "after the ]"},
           Case{"local host", "a character that no address has"},
           Case{"localhost\n", "a character that no address has"},
           Case{"caf\xc3\xa9", "a character that no address has"},
           Case{"user@host", "no host name"},
           Case{"localhost/v1", "no host name"},
           Case{std::string(1 << 20, ':'), "several colons"},
       }) {
    const absl::Status status = ParseServerAddress(wrong.text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(wrong.error));
    EXPECT_LT(status.message().size(), 512u);
  }
}

TEST(ServerAddress, LoopbackIsWhatSaysSoItself) {
  for (const char* address :
       {"localhost:1", "LocalHost:1", "127.0.0.1:1", "127.255.0.9:1", "[::1]:1",
        "unix:/run/engram", "unix-abstract:engram", "dns:localhost:1",
        "dns:///localhost:1", "ipv4:127.0.0.1:1,127.0.0.2:1", "ipv6:[::1]:1"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
  }
  for (const char* address :
       {"0.0.0.0:1", "[::]:1", "128.0.0.1:1", "10.0.0.1:1", "host:1",
        "localhost.example:1", "127.0.0.1.example:1", "[::ffff:10.0.0.1]:1",
        "dns:host:1", "dns://10.0.0.1/localhost:1",
        "ipv4:127.0.0.1:1,10.0.0.1:1", "ipv6:[fe80::1]:1", ""}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

}  // namespace
}  // namespace engram::client

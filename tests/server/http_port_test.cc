#include "server/http_port.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/http_connection.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kGet[] = "GET /page HTTP/1.1\r\nHost: x\r\n\r\n";

// Idle connections stay for as long as a test can take: what it sees is not a
// timeout at work.
HttpPort::Options PatientOptions() {
  HttpPort::Options options;
  options.idle_timeout = absl::Minutes(10);
  return options;
}

std::unique_ptr<HttpPort> OpenPort(
    const HttpPort::Options& options = PatientOptions(),
    std::function<HttpPage(const HttpRequest&)> page = [](const HttpRequest&) {
      return HttpPage{.body = "words"};
    }) {
  auto port = HttpPort::Open("127.0.0.1:0", options, {{"/page", page}});
  EXPECT_TRUE(port.ok()) << port.status();
  return *std::move(port);
}

std::vector<std::unique_ptr<HttpConnection>> Connect(
    const HttpPort& port, int count, const std::string& first_words) {
  std::vector<std::unique_ptr<HttpConnection>> connections;
  for (int i = 0; i < count; ++i) {
    connections.push_back(std::make_unique<HttpConnection>(port.address()));
    EXPECT_TRUE(connections.back()->connected());
    connections.back()->Send(first_words);
  }
  return connections;
}

TEST(HttpPort, AnswersGetWithThePageAndHeadWithoutIt) {
  const auto port = OpenPort();
  const HttpAnswer get = AskHttp(port->address(), "GET", "/page");
  EXPECT_EQ(get.status, 200);
  EXPECT_EQ(get.body, "words");
  EXPECT_THAT(get.head, HasSubstr("Content-Type: text/plain"));
  EXPECT_THAT(get.head, HasSubstr("Content-Length: 5\r\n"));
  const HttpAnswer head = AskHttp(port->address(), "HEAD", "/page");
  EXPECT_EQ(head.status, 200);
  EXPECT_THAT(head.body, IsEmpty());
  EXPECT_THAT(head.head, HasSubstr("Content-Length: 5\r\n"));
}

TEST(HttpPort, AnswersWithTheStatusOfThePage) {
  const auto port = OpenPort(PatientOptions(), [](const HttpRequest&) {
    return HttpPage{.status = 503, .body = "not yet"};
  });
  const HttpAnswer answer = AskHttp(port->address(), "GET", "/page");
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.body, "not yet");
}

TEST(HttpPort, APageSeesWhatItIsAskedWith) {
  const auto port = OpenPort(PatientOptions(), [](const HttpRequest& request) {
    EXPECT_THAT(request.certificate_names(), IsEmpty());
    return HttpPage{.status = 401,
                    .body = request.authorization.value_or("none")};
  });
  const HttpAnswer without = AskHttp(port->address(), "GET", "/page");
  EXPECT_EQ(without.body, "none");
  EXPECT_THAT(without.head, HasSubstr("WWW-Authenticate: Bearer"));
  EXPECT_EQ(
      AskHttp(port->address(), "GET", "/page", "AUTHORIZATION: Bearer key\r\n")
          .body,
      "Bearer key");
}

TEST(HttpPort, RefusesOtherPathsAndMethods) {
  const auto port = OpenPort();
  const HttpAnswer other = AskHttp(port->address(), "GET", "/other");
  EXPECT_EQ(other.status, 404);
  EXPECT_THAT(other.body, HasSubstr("/page"));
  const HttpAnswer post = AskHttp(port->address(), "POST", "/page");
  EXPECT_EQ(post.status, 405);
  EXPECT_THAT(post.head, HasSubstr("Allow: GET, HEAD"));
}

TEST(HttpPort, AnswersWhatIsNoHttpWithoutAskingForAPage) {
  std::atomic<int> asked = 0;
  const auto port = OpenPort(PatientOptions(), [&](const HttpRequest&) {
    ++asked;
    return HttpPage{.body = "words"};
  });
  HttpConnection noise(port->address());
  EXPECT_TRUE(noise.Send("\x16\x03\x01 no request at all\r\n\r\n\r\n"));
  EXPECT_THAT(noise.ReadAll(), Not(HasSubstr("200 OK")));
  HttpConnection endless(port->address());
  endless.Send(absl::StrCat("GET /page?", std::string(1 << 20, 'x')));
  EXPECT_THAT(endless.ReadAll(), Not(HasSubstr("200 OK")));
  EXPECT_EQ(asked, 0);
}

TEST(HttpPort, IsNotHeldUpByClientsWhoSayNothing) {
  const auto port = OpenPort();
  const auto silent = Connect(*port, 200, "");
  EXPECT_EQ(AskHttp(port->address(), "GET", "/page").body, "words");
}

TEST(HttpPort, IsNotHeldUpByClientsWhoNeverEndTheirRequest) {
  const auto port = OpenPort();
  const auto slow = Connect(*port, 200, "GET /page HTTP/1.1\r\nHost: x\r\nX: ");
  for (const auto& connection : slow) connection->Send("a");
  EXPECT_EQ(AskHttp(port->address(), "GET", "/page").body, "words");
}

TEST(HttpPort, IsNotHeldUpByClientsWhoDoNotRead) {
  // More than a socket takes.
  const std::string large(16 << 20, 'x');
  const auto port = OpenPort(PatientOptions(), [&](const HttpRequest&) {
    return HttpPage{.body = large};
  });
  const auto unread = Connect(*port, 10, kGet);
  EXPECT_EQ(AskHttp(port->address(), "GET", "/page").body, large);
}

TEST(HttpPort, ClosesTheOldestConnectionForTheNewest) {
  HttpPort::Options options = PatientOptions();
  options.connections = 4;
  const auto port = OpenPort(options);
  const auto connections = Connect(*port, 5, "");
  EXPECT_THAT(connections[0]->ReadAll(), IsEmpty());
  // The others are still served.
  for (int i = 1; i < 5; ++i) {
    EXPECT_TRUE(connections[i]->Send(kGet));
    EXPECT_THAT(connections[i]->ReadAll(), HasSubstr("words")) << i;
  }
}

TEST(HttpPort, ClosesConnectionsOnWhichNothingMoves) {
  HttpPort::Options options;
  options.idle_timeout = absl::Seconds(1);
  const auto port = OpenPort(options);
  HttpConnection silent(port->address());
  EXPECT_TRUE(silent.connected());
  // Returns.
  EXPECT_THAT(silent.ReadAll(), IsEmpty());
}

TEST(HttpPort, ClosesWithoutWaitingForAnybody) {
  auto port = OpenPort();
  const auto silent = Connect(*port, 20, "");
  const auto slow = Connect(*port, 20, "GET /page HTTP");
  port = nullptr;
  for (const auto& connection : silent) {
    EXPECT_THAT(connection->ReadAll(), IsEmpty());
  }
  for (const auto& connection : slow) {
    EXPECT_THAT(connection->ReadAll(), IsEmpty());
  }
}

TEST(HttpPort, GivesItsAddressBackAndTakesItAgain) {
  auto port = OpenPort();
  const std::string address = port->address();
  EXPECT_EQ(AskHttp(address, "GET", "/page").status, 200);
  EXPECT_EQ(HttpPort::Open(address, PatientOptions(), {}).status().code(),
            absl::StatusCode::kUnavailable);
  port = nullptr;
  const auto again = HttpPort::Open(address, PatientOptions(), {});
  EXPECT_TRUE(again.ok()) << again.status();
}

TEST(HttpPort, NamesTheAddressThatCannotBeHad) {
  for (const char* address : {"no-such-host.invalid:0", "203.0.113.1:0"}) {
    const auto port = HttpPort::Open(address, PatientOptions(), {});
    EXPECT_EQ(port.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(port.status().message()), HasSubstr(address));
  }
}

}  // namespace
}  // namespace engram

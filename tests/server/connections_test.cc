#include "server/connections.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/loopback.h"

namespace engram {
namespace {

constexpr absl::Duration kLong = absl::Seconds(60);

// A client's end.
class Client {
 public:
  explicit Client(const std::string& address) {
    const bool v6 = address.front() == '[';
    const int port = PortOf(address);
    descriptor_ = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
    sockaddr_storage to = {};
    socklen_t size = 0;
    if (v6) {
      auto& one = reinterpret_cast<sockaddr_in6&>(to);
      one.sin6_family = AF_INET6;
      one.sin6_addr = in6addr_loopback;
      one.sin6_port = htons(static_cast<uint16_t>(port));
      size = sizeof(one);
    } else {
      reinterpret_cast<sockaddr_in&>(to) = Loopback(port);
      size = sizeof(sockaddr_in);
    }
    connected_ =
        connect(descriptor_, reinterpret_cast<sockaddr*>(&to), size) == 0;
    sockaddr_in from = {};
    size = sizeof(from);
    getsockname(descriptor_, reinterpret_cast<sockaddr*>(&from), &size);
    peer_ = absl::StrCat("ipv4:127.0.0.1:", ntohs(from.sin_port));
  }
  ~Client() { close(descriptor_); }

  bool connected() const { return connected_; }
  // As the server names it, if it is one of IPv4.
  const std::string& peer() const { return peer_; }
  // Whether the server closes it, or has, within this time.
  bool ClosedWithin(absl::Duration limit) const {
    pollfd readable = {descriptor_, POLLIN, 0};
    const int wait = static_cast<int>(absl::ToInt64Milliseconds(limit));
    char byte;
    return poll(&readable, 1, wait) == 1 && recv(descriptor_, &byte, 1, 0) <= 0;
  }

 private:
  int descriptor_ = -1;
  bool connected_ = false;
  std::string peer_;
};

// Keeps what it is given, and closes it when its client is gone or it is told.
class Served {
 public:
  ~Served() {
    for (int descriptor : descriptors_) close(descriptor);
  }
  void Add(int descriptor) {
    absl::MutexLock lock(&mutex_);
    descriptors_.push_back(descriptor);
    there_ = descriptors_.size() >= awaited_;
  }
  bool Await(size_t count, absl::Duration limit = kLong) {
    absl::MutexLock lock(&mutex_);
    awaited_ = count;
    there_ = descriptors_.size() >= awaited_;
    return mutex_.AwaitWithTimeout(absl::Condition(&there_), limit);
  }
  // As gRPC closes.
  void Close(size_t index) {
    absl::MutexLock lock(&mutex_);
    shutdown(descriptors_[index], SHUT_RDWR);
  }

 private:
  absl::Mutex mutex_;
  std::vector<int> descriptors_ ABSL_GUARDED_BY(mutex_);
  size_t awaited_ ABSL_GUARDED_BY(mutex_) = 0;
  bool there_ ABSL_GUARDED_BY(mutex_) = false;
};

class ConnectionsTest : public ::testing::Test {
 protected:
  void Listen(int64_t limit, const std::string& address = "127.0.0.1:0",
              absl::Duration grace = absl::ZeroDuration()) {
    Connections::Options options;
    options.limit = limit;
    options.grace = grace;
    auto connections = Connections::Listen(address, options);
    ASSERT_TRUE(connections.ok()) << connections.status();
    connections_ = *std::move(connections);
    connections_->Start([this](int descriptor) { served_.Add(descriptor); });
  }
  Client Connect() const { return Client(connections_->address()); }

  Served served_;
  std::unique_ptr<Connections> connections_;
};

TEST_F(ConnectionsTest, HandsOverWhatConnects) {
  Listen(8);
  const Client first = Connect();
  const Client second = Connect();
  EXPECT_TRUE(served_.Await(2));
  EXPECT_EQ(connections_->open(), 2);
  EXPECT_EQ(connections_->closed_for_room(), 0);
}

TEST_F(ConnectionsTest, ClosesTheLongestIdleForANewOne) {
  Listen(2);
  const Client first = Connect();
  ASSERT_TRUE(served_.Await(1));
  const Client second = Connect();
  ASSERT_TRUE(served_.Await(2));
  // A call, and the first has been idle for less long.
  connections_->CallBegan(first.peer());
  connections_->CallEnded(first.peer());
  const Client third = Connect();
  ASSERT_TRUE(served_.Await(3));
  EXPECT_TRUE(second.ClosedWithin(kLong));
  EXPECT_FALSE(first.ClosedWithin(absl::ZeroDuration()));
  EXPECT_EQ(connections_->open(), 2);
  EXPECT_EQ(connections_->closed_for_room(), 1);
}

TEST_F(ConnectionsTest, LeavesWhatHasACallAndLetsNewOnesWait) {
  Listen(1);
  const Client first = Connect();
  ASSERT_TRUE(served_.Await(1));
  connections_->CallBegan(first.peer());
  connections_->CallBegan(first.peer());
  const Client second = Connect();
  EXPECT_TRUE(second.connected());  // by the kernel
  EXPECT_FALSE(served_.Await(2, absl::Milliseconds(50)));
  EXPECT_TRUE(connections_->full());
  connections_->CallEnded(first.peer());
  EXPECT_FALSE(served_.Await(2, absl::Milliseconds(50)));
  connections_->CallEnded(first.peer());
  EXPECT_TRUE(served_.Await(2));
  EXPECT_TRUE(first.ClosedWithin(kLong));
}

TEST_F(ConnectionsTest, TakesThePlaceOfWhatWasClosed) {
  Listen(1);
  const Client first = Connect();
  ASSERT_TRUE(served_.Await(1));
  connections_->CallBegan(first.peer());
  const Client second = Connect();
  EXPECT_FALSE(served_.Await(2, absl::Milliseconds(50)));
  served_.Close(0);
  EXPECT_TRUE(served_.Await(2));
  EXPECT_EQ(connections_->closed_for_room(), 0);
}

TEST_F(ConnectionsTest, LeavesWhatHasJustComeAloneForAWhile) {
  Listen(1, "127.0.0.1:0", /*grace=*/absl::Milliseconds(100));
  const absl::Time begin = absl::Now();
  const Client first = Connect();
  ASSERT_TRUE(served_.Await(1));
  const Client second = Connect();
  EXPECT_TRUE(served_.Await(2));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(100));
  EXPECT_TRUE(first.ClosedWithin(kLong));
}

TEST_F(ConnectionsTest, SurvivesManyMoreThanItsLimit) {
  Listen(3);
  std::vector<std::unique_ptr<Client>> clients;
  for (size_t i = 1; i <= 200; ++i) {
    clients.push_back(std::make_unique<Client>(connections_->address()));
    ASSERT_TRUE(served_.Await(i));
    EXPECT_LE(connections_->open(), 3);
  }
}

TEST_F(ConnectionsTest, ListensOnIpv6AndForAllAddresses) {
  Listen(8, "0.0.0.0:0");
  const std::string port =
      connections_->address().substr(connections_->address().rfind(':'));
  EXPECT_EQ(connections_->address(), absl::StrCat("0.0.0.0", port));
  const Client v4(absl::StrCat("127.0.0.1", port));
  EXPECT_TRUE(served_.Await(1));
  // Known by its IPv4 address: a call keeps it.
  connections_->CallBegan(v4.peer());
  const Client v6(absl::StrCat("[::1]", port));
  if (!v6.connected()) GTEST_SKIP() << "this machine has no IPv6";
  EXPECT_TRUE(served_.Await(2));
}

TEST_F(ConnectionsTest, AnAddressInUseIsAnError) {
  Listen(1);
  const auto second =
      Connections::Listen(connections_->address(), Connections::Options());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              ::testing::HasSubstr(connections_->address()));
}

TEST(NormalizePeer, UndoesTheEscapesOfAnUri) {
  EXPECT_EQ(NormalizePeer("ipv6:%5B::1%5D:80"), "ipv6:[::1]:80");
  EXPECT_EQ(NormalizePeer("ipv4:127.0.0.1:80"), "ipv4:127.0.0.1:80");
}

}  // namespace
}  // namespace engram

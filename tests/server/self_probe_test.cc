#include "server/self_probe.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "tests/support/loopback.h"
#include "tools/tls/client_hello.h"

namespace engram {
namespace {

// A port on loopback that the kernel connects to, and nobody accepts.
class Listener {
 public:
  Listener() : descriptor_(ListenOnLoopback(/*backlog=*/16, &port_)) {}
  ~Listener() { close(descriptor_); }

  std::string address(const std::string& host = "127.0.0.1") const {
    return absl::StrCat(host, ":", port_);
  }
  void AwaitConnection() {
    pollfd waiting = {descriptor_, POLLIN, 0};
    EXPECT_EQ(poll(&waiting, 1, 60'000), 1);
  }
  // Greets the next connection.
  void Answer() {
    const int connection = accept(descriptor_, nullptr, nullptr);
    EXPECT_EQ(write(connection, "settings", 8), 8);
    close(connection);
  }
  // Greets the next connection when it has said something; returns that.
  std::string AnswerHello() {
    const int connection = accept(descriptor_, nullptr, nullptr);
    char hello[4096];
    const ssize_t count = read(connection, hello, sizeof(hello));
    EXPECT_EQ(write(connection, "hello", 5), 5);
    close(connection);
    return std::string(hello, static_cast<size_t>(std::max<ssize_t>(count, 0)));
  }
  // Closes the next connection without a greeting.
  void Refuse() { close(accept(descriptor_, nullptr, nullptr)); }
  // The connections that were made and not taken yet.
  int Waiting() {
    int count = 0;
    for (int connection;
         (connection = accept4(descriptor_, nullptr, nullptr, 0)) >= 0;
         ++count) {
      close(connection);
    }
    return count;
  }
  // Ends every wait for a connection.
  void Shut() { shutdown(descriptor_, SHUT_RDWR); }
  // From here on nothing waits for a connection that does not come.
  void SetNonblocking() { fcntl(descriptor_, F_SETFL, O_NONBLOCK); }

 private:
  int port_ = 0;
  const int descriptor_;
};

TEST(ProbeGrpc, IsContentWhenTheServerGreets) {
  Listener listener;
  std::thread server([&] { listener.Answer(); });
  EXPECT_TRUE(ProbeGrpc(listener.address(), absl::Seconds(10)).ok());
  server.join();
}

TEST(ProbeGrpc, ReachesAllAddressesByLoopback) {
  Listener listener;
  std::thread server([&] { listener.Answer(); });
  EXPECT_TRUE(ProbeGrpc(listener.address("0.0.0.0"), absl::Seconds(10)).ok());
  server.join();
}

TEST(ProbeGrpc, SaysWhenNothingGreetsIt) {
  Listener listener;
  const absl::Status status =
      ProbeGrpc(listener.address(), absl::Milliseconds(20));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(status.message(), absl::StrCat("probe of ", listener.address(),
                                           ": no greeting within 20ms"));
}

TEST(ProbeGrpc, SaysHelloFirstWhereThatIsExpected) {
  Listener listener;
  std::string heard;
  std::thread server([&] { heard = listener.AnswerHello(); });
  EXPECT_TRUE(
      ProbeGrpc(listener.address(), absl::Seconds(10), MakeClientHello()).ok());
  server.join();
  ASSERT_GT(heard.size(), 100);
  EXPECT_TRUE(BeginsTls(heard[0]));
}

TEST(ProbeGrpc, SaysWhenNobodyListens) {
  std::string address;
  {
    Listener gone;
    address = gone.address();
  }
  EXPECT_EQ(ProbeGrpc(address, absl::Seconds(10)).code(),
            absl::StatusCode::kUnavailable);
}

// Reports once, when it has failed this often in a row.
constexpr int kFailures = 3;

SelfProbe::Options Eager(absl::Duration timeout) {
  SelfProbe::Options options;
  options.interval = absl::Milliseconds(1);
  options.timeout = timeout;
  options.failures = kFailures;
  return options;
}

TEST(SelfProbe, ReportsAfterSeveralFailuresInARowAndNotBefore) {
  Listener listener;
  listener.SetNonblocking();
  absl::Notification failed;
  SelfProbe probe(listener.address(), Eager(absl::Milliseconds(5)),
                  [&](const absl::Status& status) {
                    EXPECT_EQ(status.code(),
                              absl::StatusCode::kDeadlineExceeded);
                    // Each probe was a connection.
                    EXPECT_EQ(listener.Waiting(), kFailures);
                    failed.Notify();
                  });
  EXPECT_TRUE(failed.WaitForNotificationWithTimeout(absl::Seconds(60)));
}

TEST(SelfProbe, CountsAnewAfterAGreeting) {
  Listener listener;
  absl::Notification failed;
  std::atomic<int> greetings = 0;
  // Far more failures than it takes, but never as many in a row.
  constexpr int kGreetings = 4;
  SelfProbe probe(listener.address(), Eager(absl::Seconds(60)),
                  [&](const absl::Status& status) {
                    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
                    EXPECT_EQ(greetings, kGreetings);
                    failed.Notify();
                  });
  std::thread server([&] {
    for (int i = 0; i < kGreetings && !failed.HasBeenNotified(); ++i) {
      for (int j = 1; j < kFailures; ++j) listener.Refuse();
      ++greetings;
      listener.Answer();
    }
    for (int j = 0; j < kFailures; ++j) listener.Refuse();
  });
  EXPECT_TRUE(failed.WaitForNotificationWithTimeout(absl::Seconds(60)));
  listener.Shut();  // a probe that is over makes no further connection
  server.join();
}

TEST(SelfProbe, FailuresThatAreExcusedDoNotCount) {
  Listener listener;
  absl::Notification failed;
  std::atomic<int> excused = 0;
  SelfProbe::Options options = Eager(absl::Milliseconds(5));
  options.excuse = [&] { return ++excused <= 10; };
  SelfProbe probe(listener.address(), options, [&](const absl::Status&) {
    // Ten that were excused, and those that were not.
    EXPECT_EQ(excused, 10 + kFailures);
    failed.Notify();
  });
  EXPECT_TRUE(failed.WaitForNotificationWithTimeout(absl::Seconds(60)));
}

TEST(SelfProbe, EndsAtOnceWhileItAsks) {
  Listener listener;
  SelfProbe::Options options;
  options.interval = absl::ZeroDuration();
  options.timeout = absl::Hours(1);
  SelfProbe probe(listener.address(), options,
                  [](const absl::Status&) { ADD_FAILURE(); });
  // It has connected, and hears nothing.
  listener.AwaitConnection();
}

TEST(SelfProbe, EndsAtOnceWhileItWaits) {
  Listener listener;
  SelfProbe::Options options;
  options.interval = absl::Hours(1);
  SelfProbe probe(listener.address(), options,
                  [](const absl::Status&) { ADD_FAILURE(); });
}

}  // namespace
}  // namespace engram

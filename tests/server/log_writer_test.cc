#include "server/log_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::ElementsAre;

constexpr absl::Duration kLong = absl::Seconds(60);

std::string TellDropped(int64_t lines) {
  return absl::StrCat("dropped ", lines);
}

// A pipe whose reader reads when it is told to.
class Pipe {
 public:
  Pipe() { EXPECT_EQ(pipe2(ends_, O_CLOEXEC), 0); }
  ~Pipe() {
    CloseReader();
    CloseWriter();
  }
  int writer() const { return ends_[1]; }
  void CloseReader() { Close(&ends_[0]); }
  void CloseWriter() { Close(&ends_[1]); }
  // The next `count` lines.
  std::vector<std::string> ReadLines(size_t count) {
    std::vector<std::string> lines;
    while (lines.size() < count) {
      const size_t end = text_.find('\n');
      if (end != std::string::npos) {
        lines.push_back(text_.substr(0, end));
        text_.erase(0, end + 1);
        continue;
      }
      char bytes[4096];
      const ssize_t got = read(ends_[0], bytes, sizeof(bytes));
      if (got <= 0) break;
      text_.append(bytes, static_cast<size_t>(got));
    }
    return lines;
  }

 private:
  static void Close(int* end) {
    if (*end >= 0) close(*end);
    *end = -1;
  }

  int ends_[2] = {-1, -1};
  std::string text_;
};

TEST(LogWriter, WritesLinesInOrder) {
  Pipe pipe;
  LogWriter writer(pipe.writer(), 1 << 20, TellDropped);
  writer.Write("one");
  writer.Write("two");
  EXPECT_TRUE(writer.Flush(kLong));
  EXPECT_THAT(pipe.ReadLines(2), ElementsAre("one", "two"));
  EXPECT_EQ(writer.dropped(), 0);
}

TEST(LogWriter, WritesALineThatIsLongerThanAPipe) {
  Pipe pipe;
  LogWriter writer(pipe.writer(), 1 << 20, TellDropped);
  const std::string line(300'000, 'x');
  writer.Write(line);
  EXPECT_THAT(pipe.ReadLines(1), ElementsAre(line));
}

TEST(LogWriter, NeverWaitsForAReaderAndTellsWhatItDropped) {
  Pipe pipe;
  constexpr size_t kMaxBytes = 64 << 10;
  LogWriter writer(pipe.writer(), kMaxBytes, TellDropped);
  // Much more than queue and pipe hold, from several threads.
  constexpr int kThreads = 4;
  constexpr int kLines = 5000;
  const std::string line(100, 'x');
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < kLines; ++j) writer.Write(line);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(writer.Flush(absl::ZeroDuration()));
  const int64_t dropped = writer.dropped();
  ASSERT_GT(dropped, 0);
  // Of a pipe and the queue.
  const size_t kept = kThreads * kLines - static_cast<size_t>(dropped);
  EXPECT_LT(kept * line.size(), kMaxBytes + (1 << 20));

  for (const std::string& read : pipe.ReadLines(kept)) EXPECT_EQ(read, line);
  EXPECT_THAT(pipe.ReadLines(1),
              ElementsAre(absl::StrCat("dropped ", dropped)));
  writer.Write("after");
  EXPECT_THAT(pipe.ReadLines(1), ElementsAre("after"));
  EXPECT_TRUE(writer.Flush(kLong));
  EXPECT_EQ(writer.dropped(), dropped);
}

TEST(LogWriter, EndsAlthoughNobodyReads) {
  Pipe pipe;
  LogWriter writer(pipe.writer(), 1 << 20, TellDropped);
  for (int i = 0; i < 5000; ++i) writer.Write(std::string(100, 'x'));
  EXPECT_FALSE(writer.Flush(absl::Milliseconds(1)));
}

TEST(LogWriter, CountsWhatADescriptorRefuses) {
  int closed = -1;
  {
    Pipe pipe;
    closed = pipe.writer();
  }
  LogWriter writer(closed, 1 << 20, TellDropped);
  writer.Write("lost");
  EXPECT_TRUE(writer.Flush(kLong));
  EXPECT_EQ(writer.dropped(), 1);
}

}  // namespace
}  // namespace engram

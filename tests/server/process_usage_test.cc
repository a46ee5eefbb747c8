#include "server/process_usage.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <vector>

#include "server/clock.h"

namespace engram {
namespace {

TEST(ProcessUsage, CountsDescriptorsAsTheyOpenAndClose) {
  const int64_t before = ReadProcessUsage().open_descriptors;
  EXPECT_GT(before, 0);
  std::vector<int> opened;
  for (int i = 0; i < 10; ++i) opened.push_back(open("/dev/null", O_RDONLY));
  EXPECT_EQ(ReadProcessUsage().open_descriptors, before + 10);
  for (const int descriptor : opened) close(descriptor);
  EXPECT_EQ(ReadProcessUsage().open_descriptors, before);
}

TEST(ProcessUsage, CountsMemoryThatIsTouched) {
  const int64_t before = ReadProcessUsage().resident_bytes;
  constexpr size_t kBytes = 64 << 20;
  std::vector<char> touched(kBytes, 1);
  const ProcessUsage after = ReadProcessUsage();
  EXPECT_GE(after.resident_bytes - before, int64_t{kBytes} / 2);
  EXPECT_GE(after.virtual_bytes, after.resident_bytes);
  EXPECT_EQ(touched[kBytes - 1], 1);
}

TEST(ProcessUsage, CountsTimeOnTheProcessor) {
  const double before = ReadProcessUsage().cpu_seconds;
  rusage used = {};
  // The kernel counts in hundredths of a second.
  const auto seconds = [&] {
    getrusage(RUSAGE_SELF, &used);
    return static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * static_cast<double>(used.ru_utime.tv_usec +
                                      used.ru_stime.tv_usec);
  };
  const double start = seconds();
  while (seconds() < start + 0.2) {
  }
  const double spent = ReadProcessUsage().cpu_seconds - before;
  EXPECT_GE(spent, 0.15);
  EXPECT_LE(ReadProcessUsage().cpu_seconds, seconds() + 0.05);
}

TEST(ProcessUsage, StartedBeforeNowAndNotLongAgo) {
  const double now =
      absl::ToDoubleSeconds(RealClock()->Now() - absl::UnixEpoch());
  const double start = ReadProcessUsage().start_time_seconds;
  EXPECT_LE(start, now + 2);
  EXPECT_GT(start, now - 24 * 3600);
  EXPECT_EQ(ReadProcessUsage().start_time_seconds, start);
}

TEST(ProcessUsage, TellsTheLimitOfDescriptors) {
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  if (limit.rlim_cur == RLIM_INFINITY) return;
  EXPECT_EQ(ReadProcessUsage().max_descriptors,
            static_cast<int64_t>(limit.rlim_cur));
}

}  // namespace
}  // namespace engram

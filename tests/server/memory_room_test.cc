#include "server/memory_room.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>

#include "gtest/gtest.h"

namespace engram {
namespace {

uint64_t PageBytes() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

TEST(MemoryRoom, IsNoMoreThanTheMachineHas) {
  const MemoryRoom room = FindMemoryRoom();
  EXPECT_GT(room.bytes, 0u);
  EXPECT_LT(room.bytes,
            static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * PageBytes());
  EXPECT_FALSE(room.limit.empty());
}

TEST(MemoryRoom, IsWhatALimitOfAddressSpaceLeaves) {
  constexpr uint64_t kLeft = uint64_t{64} << 20;
  uint64_t pages = 0;
  ASSERT_TRUE(std::ifstream("/proc/self/statm") >> pages);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  rlimit limited = before;
  limited.rlim_cur = pages * PageBytes() + kLeft;
  ASSERT_EQ(setrlimit(RLIMIT_AS, &limited), 0);
  const MemoryRoom room = FindMemoryRoom();
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_EQ(room.limit, "ulimit -v");
  // What this test has allocated meanwhile is little.
  EXPECT_LE(room.bytes, kLeft);
  EXPECT_GE(room.bytes, kLeft / 2);
}

}  // namespace
}  // namespace engram

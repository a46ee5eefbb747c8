#include "kernels/control_group.h"

#include <sched.h>

#include <filesystem>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/temporary_folder.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::Optional;

constexpr char kVersion2Mount[] =
    "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
constexpr char kVersion1Mounts[] =
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:3 master:4 - cgroup "
    "cgroup rw,cpu,cpuacct\n";

// A machine's files, as the functions under test would find them.
class ControlGroupTest : public testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    folder_.Write(path, text);
  }

  const TemporaryFolder folder_;
  const std::string& root_ = folder_.path();
};

TEST_F(ControlGroupTest, AMachineWithoutControlGroupsHasNoQuota) {
  EXPECT_EQ(ControlGroupProcessors(root_), std::nullopt);
}

TEST_F(ControlGroupTest, TheQuotaOfVersion2IsReadAndMaxIsNone) {
  Write("/proc/self/cgroup", "0::/service\n");
  Write("/proc/self/mountinfo", kVersion2Mount);
  Write("/sys/fs/cgroup/service/cpu.max", "250000 100000\n");
  EXPECT_THAT(ControlGroupProcessors(root_), Optional(Eq(2.5)));
  Write("/sys/fs/cgroup/service/cpu.max", "max 100000\n");
  EXPECT_EQ(ControlGroupProcessors(root_), std::nullopt);
}

TEST_F(ControlGroupTest, TheLeastQuotaOfNestedGroupsHolds) {
  Write("/proc/self/cgroup", "0::/pod/container/inner\n");
  Write("/proc/self/mountinfo", kVersion2Mount);
  Write("/sys/fs/cgroup/pod/container/inner/cpu.max", "max 100000\n");
  Write("/sys/fs/cgroup/pod/container/cpu.max", "400000 100000\n");
  Write("/sys/fs/cgroup/pod/cpu.max", "150000 50000\n");
  EXPECT_THAT(ControlGroupProcessors(root_), Optional(Eq(3.0)));
}

TEST_F(ControlGroupTest, TheQuotaOfVersion1IsReadAndMinusOneIsNone) {
  Write(
      "/proc/self/cgroup",
      "7:cpuset:/other\n4:cpu,cpuacct:/docker/one\n1:name=systemd:/x\n0::/\n");
  Write("/proc/self/mountinfo", kVersion1Mounts);
  const std::string group = "/sys/fs/cgroup/cpu,cpuacct/docker/one";
  Write(group + "/cpu.cfs_quota_us", "-1\n");
  Write(group + "/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(ControlGroupProcessors(root_), std::nullopt);
  Write(group + "/cpu.cfs_quota_us", "50000\n");
  EXPECT_THAT(ControlGroupProcessors(root_), Optional(Eq(0.5)));
}

TEST_F(ControlGroupTest, BothVersionsOfOneMachineCount) {
  Write("/proc/self/cgroup", "4:cpu,cpuacct:/one\n0::/two\n");
  Write("/proc/self/mountinfo", std::string(kVersion1Mounts) +
                                    "41 31 0:38 / /sys/fs/cgroup/unified rw - "
                                    "cgroup2 cgroup2 rw\n");
  EXPECT_THAT(ControlGroupFolders("cpu", root_),
              ElementsAre(root_ + "/sys/fs/cgroup/cpu,cpuacct/one",
                          root_ + "/sys/fs/cgroup/cpu,cpuacct",
                          root_ + "/sys/fs/cgroup/unified/two",
                          root_ + "/sys/fs/cgroup/unified"));
}

// A container that sees its own group as the root of the mount, and the path
// that the machine knows it by.
TEST_F(ControlGroupTest, AMountedPartOfTheHierarchyIsSeenFromThere) {
  Write("/proc/self/cgroup", "0::/docker/one/inner\n");
  Write("/proc/self/mountinfo",
        "35 24 0:30 /docker/one /mnt/my\\040groups rw - cgroup2 cgroup2 rw\n");
  EXPECT_THAT(
      ControlGroupFolders("cpu", root_),
      ElementsAre(root_ + "/mnt/my groups/inner", root_ + "/mnt/my groups"));
  for (const char* elsewhere : {"/docker/other", "/docker/onemore", "/../x"}) {
    Write("/proc/self/cgroup", std::string("0::") + elsewhere + "\n");
    EXPECT_THAT(ControlGroupFolders("cpu", root_),
                ElementsAre(root_ + "/mnt/my groups"))
        << elsewhere;
  }
}

TEST_F(ControlGroupTest, WhatCannotBeReadIsNoQuota) {
  Write("/proc/self/cgroup", "0::/a\nnonsense\n:\n");
  Write("/proc/self/mountinfo",
        std::string("nonsense\n1 2 3 - cgroup2\n") + kVersion2Mount);
  for (const char* text : {"", "100000", "a b", "0 0", "100000 0", "-5 100"}) {
    Write("/sys/fs/cgroup/a/cpu.max", text);
    EXPECT_EQ(ControlGroupProcessors(root_), std::nullopt) << text;
  }
}

// As a service's slice, or a pod's containers.
TEST_F(ControlGroupTest, TheLeastMemoryOfNestedGroupsHoldsAndMaxIsNone) {
  Write("/proc/self/cgroup", "0::/pod/container\n");
  Write("/proc/self/mountinfo", kVersion2Mount);
  EXPECT_EQ(ControlGroupMemory(root_), std::nullopt);
  Write("/sys/fs/cgroup/pod/container/memory.max", "max\n");
  EXPECT_EQ(ControlGroupMemory(root_), std::nullopt);
  Write("/sys/fs/cgroup/pod/memory.max", "8589934592\n");
  EXPECT_THAT(ControlGroupMemory(root_), Optional(Eq(8589934592u)));
  Write("/sys/fs/cgroup/pod/container/memory.max", "1000\n");
  EXPECT_THAT(ControlGroupMemory(root_), Optional(Eq(1000u)));
}

TEST_F(ControlGroupTest, TheMemoryOfVersion1IsThatOfTheGroupsOwnHierarchy) {
  Write("/proc/self/cgroup", "4:memory:/docker/one\n1:cpu:/two\n0::/\n");
  Write(
      "/proc/self/mountinfo",
      std::string(kVersion1Mounts) +
          "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9000\n");
  EXPECT_THAT(ControlGroupMemory(root_), Optional(Eq(9000u)));
  Write("/sys/fs/cgroup/memory/docker/one/memory.limit_in_bytes", "7000\n");
  EXPECT_THAT(ControlGroupMemory(root_), Optional(Eq(7000u)));
  EXPECT_EQ(ControlGroupProcessors(root_), std::nullopt);
}

TEST(UsableProcessors, FollowTheAffinityMask) {
  EXPECT_GE(UsableProcessors(), 1);
  int usable = 0;
  std::thread([&usable] {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    if (sched_setaffinity(0, sizeof(set), &set) == 0) {
      usable = UsableProcessors();
    }
  }).join();
  EXPECT_EQ(usable, 1);
}

}  // namespace
}  // namespace engram

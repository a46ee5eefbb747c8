#include "server/memory_room.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace engram {
namespace {

// The first word of a file as a number, or nothing.
std::optional<uint64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  uint64_t number = 0;
  if (!(file >> word) || !absl::SimpleAtoi(word, &number)) return std::nullopt;
  return number;
}

struct Usage {
  uint64_t address_space = 0;
  uint64_t resident = 0;
};

Usage FindUsage() {
  const uint64_t page = sysconf(_SC_PAGESIZE);
  Usage usage;
  std::ifstream file("/proc/self/statm");
  if (!(file >> usage.address_space >> usage.resident)) return {};
  return {usage.address_space * page, usage.resident * page};
}

// Of the second version of control groups, where this process is; or of the
// first, as a container sees it.
std::optional<uint64_t> FindGroupLimit() {
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    if (line.compare(0, 3, "0::") != 0) continue;
    const auto limit = ReadNumber(
        absl::StrCat("/sys/fs/cgroup", line.substr(3), "/memory.max"));
    if (limit.has_value()) return limit;
  }
  for (const char* path : {"/sys/fs/cgroup/memory.max",
                           "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    if (const auto limit = ReadNumber(path)) return limit;
  }
  return std::nullopt;
}

}  // namespace

MemoryRoom FindMemoryRoom() {
  const Usage usage = FindUsage();
  const uint64_t machine = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                           static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  MemoryRoom room = {machine, "the machine"};
  const auto consider = [&room](uint64_t limit, uint64_t used,
                                const char* name) {
    const uint64_t left = limit > used ? limit - used : 0;
    if (left < room.bytes) room = {left, name};
  };
  consider(machine, usage.resident, "the machine");
  if (const auto limit = FindGroupLimit()) {
    consider(*limit, usage.resident, "the control group (memory.max)");
  }
  rlimit address_space;
  if (getrlimit(RLIMIT_AS, &address_space) == 0 &&
      address_space.rlim_cur != RLIM_INFINITY) {
    consider(address_space.rlim_cur, usage.address_space, "ulimit -v");
  }
  return room;
}

}  // namespace engram

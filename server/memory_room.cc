#include "server/memory_room.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>

#include "kernels/control_group.h"

namespace engram {
namespace {

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
  if (const auto limit = ControlGroupMemory()) {
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

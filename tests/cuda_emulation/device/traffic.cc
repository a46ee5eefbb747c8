#include "tests/cuda_emulation/device/traffic.h"

#include <algorithm>
#include <cstddef>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "emulated_device.h"
#include "tests/cuda_emulation/device/kernel_run.h"
#include "tests/cuda_emulation/device/sanitizer.h"

namespace engram::emulation {

bool traffic_is_watched = false;
ComputedWork computed_work;

namespace {

// A place in the source of a kernel, as one thread or warp comes to it.
struct Visit {
  uint32_t who;  // thread or warp of the block
  int32_t nth;   // of its visits; 0: all
  bool is_store;
  Site site;

  bool operator==(const Visit& other) const {
    return who == other.who && nth == other.nth && is_store == other.is_store &&
           site.line() == other.site.line() &&
           site.file_name() == other.site.file_name();
  }
};
struct HashOfVisit {
  size_t operator()(const Visit& visit) const {
    size_t hash = visit.site.line() * 2 + visit.is_store;
    hash = hash * 0x9e3779b97f4a7c15 + visit.who;
    hash = hash * 0x9e3779b97f4a7c15 + static_cast<size_t>(visit.nth);
    return hash ^ (hash >> 29);
  }
};
using Sectors = std::vector<uintptr_t>;

// What is known of the kernel that runs, and of its block.
struct Watch {
  KernelTraffic kernel;
  std::unordered_set<uintptr_t> loaded;
  std::unordered_set<uintptr_t> stored;
  uint3 block = {};
  std::unordered_map<Visit, int32_t, HashOfVisit> visits;  // of threads
  std::unordered_map<Visit, Sectors, HashOfVisit> requests;
  std::vector<KernelTraffic> done;

  Traffic& Of(bool is_store) { return is_store ? kernel.stores : kernel.loads; }

  void EndBlock() {
    for (auto& [visit, sectors] : requests) {
      std::sort(sectors.begin(), sectors.end());
      const auto end = std::unique(sectors.begin(), sectors.end());
      Traffic& traffic = Of(visit.is_store);
      ++traffic.requests;
      traffic.sectors += end - sectors.begin();
      (visit.is_store ? stored : loaded).insert(sectors.begin(), end);
    }
    requests.clear();
    visits.clear();
  }
};

Watch& watch() {
  static auto* const watch = new Watch;
  return *watch;
}

bool SameBlock(const uint3& a, const uint3& b) {
  return a.x == b.x && a.y == b.y && a.z == b.z;
}

uint32_t ThreadOfBlock() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

}  // namespace

void WatchAccess(const void* address, size_t bytes, bool is_store,
                 const Site& site) {
  const Unseen unseen;
  Watch& watched = watch();
  if (!SameBlock(watched.block, blockIdx)) {
    watched.EndBlock();
    watched.block = blockIdx;
  }
  const uint32_t thread = ThreadOfBlock();
  const int32_t nth = ++watched.visits[{thread, 0, is_store, site}];
  Sectors& sectors = watched.requests[{thread / 32, nth, is_store, site}];
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  const uintptr_t last = (at + bytes - 1) / kSectorBytes;
  for (uintptr_t sector = at / kSectorBytes; sector <= last; ++sector) {
    sectors.push_back(sector);
  }
  watched.Of(is_store).bytes += static_cast<int64_t>(bytes);
}

void BeginTraffic() {
  watch() = Watch();
  computed_work = {};
  traffic_is_watched = true;
}

std::vector<KernelTraffic> EndTraffic() {
  traffic_is_watched = false;
  return std::exchange(watch().done, {});
}

void EndKernelTraffic(const KernelLaunch& launch) {
  if (!traffic_is_watched) return;
  const Unseen unseen;
  Watch& watched = watch();
  watched.EndBlock();
  KernelTraffic& kernel = watched.kernel;
  kernel.kernel = launch.kernel;
  kernel.grid = launch.grid;
  kernel.block = launch.block;
  kernel.shared_bytes = launch.shared_bytes;
  kernel.loads.distinct_sectors = static_cast<int64_t>(watched.loaded.size());
  kernel.stores.distinct_sectors = static_cast<int64_t>(watched.stored.size());
  const ComputedWork computed = std::exchange(computed_work, {});
  kernel.matrix_steps = computed.matrix_steps;
  kernel.fused_adds = computed.fused_adds;
  std::vector<KernelTraffic> done = std::move(watched.done);
  done.push_back(kernel);
  watched = Watch();
  watched.done = std::move(done);
}

}  // namespace engram::emulation

#include "kernels/control_group.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/algorithm/container.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace engram {
namespace {

bool Names(absl::string_view list, absl::string_view controller) {
  return absl::c_linear_search(
      std::vector<absl::string_view>(absl::StrSplit(list, ',')), controller);
}

// Where a hierarchy is mounted: `group` of it appears as the folder `point`.
struct Mount {
  std::string group;
  std::string point;
};

// A line of mountinfo, "id parent device root point options... - type source
// options", if it mounts the hierarchy of `controller`; of version 2 if that is
// empty.
std::optional<Mount> ParseMount(const std::string& line,
                                absl::string_view controller) {
  const std::vector<std::string> halves =
      absl::StrSplit(line, absl::MaxSplits(" - ", 1));
  if (halves.size() != 2) return std::nullopt;
  const std::vector<absl::string_view> left = absl::StrSplit(halves[0], ' ');
  const std::vector<absl::string_view> right = absl::StrSplit(halves[1], ' ');
  if (left.size() < 5 || right.size() < 3) return std::nullopt;
  const bool wanted = controller.empty()
                          ? right[0] == "cgroup2"
                          : right[0] == "cgroup" && Names(right[2], controller);
  Mount mount;
  // A space in a name is written as \040.
  if (!wanted || !absl::CUnescape(left[3], &mount.group) ||
      !absl::CUnescape(left[4], &mount.point)) {
    return std::nullopt;
  }
  return mount;
}

// `path`, a group, as seen below the mounted one. Nothing of it if it lies
// elsewhere: then the mounted group is all that can be seen.
std::string Below(const Mount& mount, const std::string& path) {
  absl::string_view rest = path;
  if (mount.group != "/" && !absl::ConsumePrefix(&rest, mount.group)) return "";
  if (absl::StrContains(path, "..") || rest == "/") return "";
  return rest.empty() || rest[0] == '/' ? std::string(rest) : "";
}

void AddFolders(const std::string& root, absl::string_view controller,
                const std::string& path, std::vector<std::string>* folders) {
  std::ifstream mounts(root + "/proc/self/mountinfo");
  std::string line;
  while (std::getline(mounts, line)) {
    const std::optional<Mount> mount = ParseMount(line, controller);
    if (!mount.has_value()) continue;
    std::string group = Below(*mount, path);
    for (;;) {
      folders->push_back(absl::StrCat(root, mount->point, group));
      if (group.empty()) break;
      group.resize(group.rfind('/'));
    }
    return;
  }
}

std::optional<std::string> ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

// A quota in microseconds of a period's. "max" and -1 are none.
std::optional<double> Processors(absl::string_view quota,
                                 absl::string_view period) {
  int64_t quota_us = 0, period_us = 0;
  if (!absl::SimpleAtoi(quota, &quota_us) ||
      !absl::SimpleAtoi(period, &period_us) || quota_us <= 0 ||
      period_us <= 0) {
    return std::nullopt;
  }
  return static_cast<double>(quota_us) / static_cast<double>(period_us);
}

// Of one group; of either version.
std::optional<double> QuotaOf(const std::string& folder) {
  if (const auto limit = ReadLine(folder + "/cpu.max")) {
    const std::vector<absl::string_view> words = absl::StrSplit(*limit, ' ');
    return words.size() == 2 ? Processors(words[0], words[1]) : std::nullopt;
  }
  const auto quota = ReadLine(folder + "/cpu.cfs_quota_us");
  const auto period = ReadLine(folder + "/cpu.cfs_period_us");
  if (!quota.has_value() || !period.has_value()) return std::nullopt;
  return Processors(*quota, *period);
}

// Of one group; of either version. "max" is none.
std::optional<uint64_t> MemoryOf(const std::string& folder) {
  for (const char* name : {"/memory.max", "/memory.limit_in_bytes"}) {
    const auto limit = ReadLine(folder + name);
    uint64_t bytes = 0;
    if (limit.has_value() && absl::SimpleAtoi(*limit, &bytes)) return bytes;
  }
  return std::nullopt;
}

// Of `limit_of` of all groups that can limit what `controller` controls, the
// least.
template <class Limit>
std::optional<Limit> LeastLimit(
    absl::string_view controller, const std::string& root,
    std::optional<Limit> (*limit_of)(const std::string& folder)) {
  std::optional<Limit> least;
  for (const std::string& folder : ControlGroupFolders(controller, root)) {
    const std::optional<Limit> limit = limit_of(folder);
    if (limit.has_value() && (!least.has_value() || *limit < *least)) {
      least = limit;
    }
  }
  return least;
}

// Processors that the calling thread may run on.
int AffinityProcessors() {
  // Masks of machines with more processors than cpu_set_t knows are refused
  // until the set is large enough.
  for (int processors = CPU_SETSIZE; processors <= (1 << 20); processors *= 2) {
    cpu_set_t* const set = CPU_ALLOC(processors);
    const size_t bytes = CPU_ALLOC_SIZE(processors);
    const bool known = sched_getaffinity(0, bytes, set) == 0;
    const int count = known ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (known) return count;
  }
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

std::vector<std::string> ControlGroupFolders(absl::string_view controller,
                                             const std::string& root) {
  std::vector<std::string> folders;
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    // "number:controllers:path"; version 2 has the number 0 and no controllers.
    const std::vector<std::string> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[1].empty()) {
      AddFolders(root, "", parts[2], &folders);
    } else if (Names(parts[1], controller)) {
      AddFolders(root, controller, parts[2], &folders);
    }
  }
  return folders;
}

std::optional<double> ControlGroupProcessors(const std::string& root) {
  return LeastLimit("cpu", root, QuotaOf);
}

std::optional<uint64_t> ControlGroupMemory(const std::string& root) {
  return LeastLimit("memory", root, MemoryOf);
}

int UsableProcessors() {
  double processors = AffinityProcessors();
  if (const auto quota = ControlGroupProcessors()) {
    processors = std::min(processors, std::floor(*quota));
  }
  return std::max(1, static_cast<int>(processors));
}

}  // namespace engram

// The control groups of this process, and what they leave it.
//
// A group is a folder of files, and the limits of those around it hold as well.
// There are two versions: one hierarchy for all controllers, or one for each;
// a machine may have both mounted.
//
// Thread-safe: pure functions of the files that they read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace engram {

// The folders of the groups of this process that can limit what `controller`
// ("cpu", "memory") controls: its own and then those around it, as far as they
// are mounted; of either version. A folder may not be there. `root` stands
// before all paths, for tests.
std::vector<std::string> ControlGroupFolders(absl::string_view controller,
                                             const std::string& root = "");

// How many processors' time the quotas of this process's groups allow: the
// least of them. Nothing: there is no quota.
std::optional<double> ControlGroupProcessors(const std::string& root = "");

// How many bytes of memory the limits of this process's groups allow: the least
// of them. Nothing: there is no limit.
std::optional<uint64_t> ControlGroupMemory(const std::string& root = "");

// How many threads can compute at once: processors that the calling thread may
// run on (its affinity mask), and no more than the quota's whole processors; at
// least 1. Threads that wait for each other gain nothing by a part of a
// processor: all are stopped when the quota of a period is used up.
int UsableProcessors();

}  // namespace engram

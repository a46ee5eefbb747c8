// How much more memory this process can have, by whatever limits it.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <string>

namespace engram {

struct MemoryRoom {
  size_t bytes = 0;
  std::string limit;  // what says so: "ulimit -v", "the machine", ...
};

// The least of: what the limit of address space leaves (ulimit -v), what the
// control group's limit leaves beside what this process has, and the machine's
// memory beside that. A room that is smaller than what is needed will not do
// whatever other processes give back.
MemoryRoom FindMemoryRoom();

}  // namespace engram

// `engram-bench limits`: what this machine's processors can do at most.
#pragma once

#include <string>
#include <vector>

namespace engram::client {

// `arguments` without "limits". Returns the exit code.
int RunLimitsBench(const std::vector<std::string>& arguments);

}  // namespace engram::client

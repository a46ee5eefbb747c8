// `engram-bench engine`: how fast a back end steps models, without a server.
#pragma once

#include <string>
#include <vector>

namespace engram::client {

// `arguments` without "engine". Returns the exit code.
int RunEngineBench(const std::vector<std::string>& arguments);

}  // namespace engram::client

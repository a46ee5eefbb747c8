// Prints the environment variable of each flag of the server as a C++ string
// and a comma: the build makes a table of them for the client programs, which
// take an ENGRAM_ variable that no program knows for a mistake.
#include <cstdio>

#include "server/options.h"

int main() {
  engram::ServerOptions options;
  for (const engram::OptionFlag& flag : engram::OptionFlags(&options)) {
    std::printf("\"%s\",\n", flag.environment().c_str());
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}

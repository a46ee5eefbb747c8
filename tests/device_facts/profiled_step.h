// One step of a published shape's first layers, for a profiler to look at.
#pragma once

#include <string>
#include <vector>

namespace engram {

// `arguments`: SHAPE ROWS TOKENS, of which each row has so many. Prints what
// went wrong; the profiler is on during the step alone. Returns 0 or 1.
int RunStepOnce(const std::vector<std::string>& arguments);

}  // namespace engram

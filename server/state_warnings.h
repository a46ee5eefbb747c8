// What is unusual about a session's states, in words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/inspection.h"

namespace engram {

// One sentence for each thing; none where all is as usual. `position`: tokens
// fed.
std::vector<std::string> StateWarnings(const std::vector<StateSummary>& states,
                                       int64_t position);

}  // namespace engram

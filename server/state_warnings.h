// What is unusual about a session's states, in words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/inspection.h"

namespace engram {

// One sentence for each thing; none where all is as usual. `position`: tokens
// fed; `trained_tokens`: ModelInfo's.
std::vector<std::string> StateWarnings(const std::vector<StateSummary>& states,
                                       int64_t position,
                                       int64_t trained_tokens);

}  // namespace engram

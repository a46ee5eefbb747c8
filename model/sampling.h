// How a request may ask for its tokens to be drawn. What the parameters mean is
// kernels/outcomes.h; tokens are drawn there, below the model.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/outcomes.h"

namespace engram {

// INVALID_ARGUMENT with the field's name, its value and its limits. `ids`:
// those of a vocabulary are [0, ids).
absl::Status Validate(const SamplingParameters& parameters, int64_t ids);

}  // namespace engram

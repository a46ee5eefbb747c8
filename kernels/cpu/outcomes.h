// Outcomes of rows of logits: draws, log-probabilities and alternatives.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// Rows that are worked on at the same time, at most.
inline constexpr int64_t kOutcomeStrips = 16;

// What `rows` rows of `ids` logits need to be worked on.
size_t OutcomeScratchBytes(int64_t rows, int64_t ids);

// See Backend::Outcomes. `scratch` has OutcomeScratchBytes(requests, ids).
void Outcomes(ThreadPool& threads, ConstMatrix logits, int64_t ids,
              absl::Span<const OutcomeRequest> requests, float* scratch,
              absl::Span<Outcome> outcomes);

}  // namespace engram::cpu

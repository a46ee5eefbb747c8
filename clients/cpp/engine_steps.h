// What a step of a model takes, measured without a server: on the back end
// itself.
//
// These files, engine_bench.* and limits_bench.* alone of the clients know
// models and back ends.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/backend.h"
#include "model/model.h"

namespace engram::client {

struct StepTimes {
  int64_t steps = 0;  // measured
  absl::Duration median = absl::ZeroDuration();
  absl::Duration fastest = absl::ZeroDuration();
  absl::Duration slowest = absl::ZeroDuration();
};

// For `at_least` so long, and at least some steps after some that are not
// counted. Every row draws its best token. Errors: INTERNAL if the device
// failed, or if what the model computes is not finite.

// Steps in which each of `rows` sequences reads its last token, from the end of
// one to the end of the next; ahead by one where the model can do that, as a
// server does. REQUIRES: as many free slots; RESOURCE_EXHAUSTED if keys and
// values of so many sequences don't fit.
absl::StatusOr<StepTimes> MeasureDecode(int rows, absl::Duration at_least,
                                        Model* model);

// Steps in which one new sequence reads `tokens` tokens. REQUIRES: no more than
// limits().max_batch_tokens. RESOURCE_EXHAUSTED likewise; INVALID_ARGUMENT: the
// model's sequences end before.
absl::StatusOr<StepTimes> MeasurePrefill(int tokens, absl::Duration at_least,
                                         Model* model);

// Bytes read and written in a second by copies of `bytes` within the back end's
// memory: what it can move at most. RESOURCE_EXHAUSTED: no memory for two such
// blocks.
absl::StatusOr<double> MeasureCopyRate(size_t bytes, Backend* backend);

}  // namespace engram::client

// What a device is told of rows of logits and of what they are asked for, and
// what it answers: kernels/outcomes.h in plain values. kernels/cuda/outcomes.h
// makes one of the other.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/step_table.h"

namespace engram::cuda {

struct BiasedId {
  int32_t id;
  float bias;
};
struct CountedId {
  int32_t id;
  int32_t count;
};
struct ScoredId {
  int32_t id;
  float score;
};

// Where a list lies, in bytes from the beginning of the upload.
struct UploadedList {
  uint32_t at = 0;
  int32_t count = 0;
};

// A row's OutcomeRequest.
struct OutcomeRow {
  int32_t draws = 0;  // 1: a token
  int32_t is_last = 0;
  int32_t newest = -1;
  int32_t follower = -1;  // TokenDraw::follower: `newest` is its token
  int32_t padding = 0;
  int32_t scored = -1;
  int32_t alternatives = 0;
  int32_t first_alternative = 0;  // among those of all rows

  // SamplingParameters.
  int32_t top_k = 0;
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int32_t penalises_counts = 0;  // 1: those of `counted` and of `newest`
  uint64_t seed = 0;
  uint64_t index = 0;

  UploadedList biased;    // BiasedId, none twice
  UploadedList seen;      // uint32_t, a bit per id; none: no penalty for it
  UploadedList counted;   // CountedId, none twice
  UploadedList stop_ids;  // int32_t
};

struct OutcomeAnswer {
  uint64_t normalizer = 0;  // sum of exp(score - highest) in parts of 1 / unit
  float highest = 0;        // clean logit
  float told_score = 0;     // clean logit of `told`
  int32_t told = -1;        // whose log-probability was asked for
  int32_t token = -1;
  int32_t finite = 0;
  int32_t stops = 0;
  int32_t alternatives = 0;  // in no order
  int32_t padding = 0;
};

// Addresses of the device.
struct OutcomeWork {
  StepTable step;                 // of the rows that follow
  const float* logits = nullptr;  // [rows, stride]
  int64_t stride = 0;
  int32_t ids = 0;
  int32_t rows = 0;
  float normalizer_unit = 1;             // a power of 2
  const OutcomeRow* requests = nullptr;  // [rows]
  const std::byte* upload = nullptr;     // where their lists are counted from
  float* strips = nullptr;               // [strip_count, ids]
  int32_t strip_count = 0;               // rows that are worked on together
  OutcomeAnswer* answers = nullptr;      // [rows]
  ScoredId* alternatives = nullptr;      // of all rows
};

// How finely exp(score - highest) is counted: so that the sum over all ids is
// below 2^63.
constexpr int NormalizerBits(int32_t ids) {
  int bits = 63;
  for (; ids > 0; ids /= 2) --bits;
  return bits;
}

// Answers every row.
cudaError_t FindOutcomes(cudaStream_t stream, const OutcomeWork& work);

}  // namespace engram::cuda

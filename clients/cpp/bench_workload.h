// What `engram-bench` asks of the server, and when: lengths, prompts and
// arrivals, all a function of one seed.
//
// Each is drawn from the seed and the place of the request alone, not from one
// stream of random numbers, so that the same requests are made whatever order
// they are answered in.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace engram::client {

// Whole numbers from `least` to `most`, all equally likely.
struct LengthRange {
  int32_t least = 0;
  int32_t most = 0;
};

// "128" or "64..256".
absl::StatusOr<LengthRange> ParseLengthRange(absl::string_view text);
std::string ToString(const LengthRange& range);

struct BenchTurn {
  std::vector<int32_t> prompt;
  int32_t output_tokens = 0;
};

// The turn `turn` of conversation `conversation`, with random token ids below
// `vocabulary_size`.
BenchTurn DrawTurn(uint64_t seed, int64_t conversation, int64_t turn,
                   const LengthRange& prompt_tokens,
                   const LengthRange& output_tokens, int64_t vocabulary_size);

// The time between arrival `arrival` and the one before it in a Poisson process
// of `rate` arrivals a second.
std::chrono::nanoseconds DrawArrivalGap(uint64_t seed, int64_t arrival,
                                        double rate);

}  // namespace engram::client

// How this device's tensor cores add what one instruction multiplies.
#pragma once

#include <cstdint>
#include <vector>

namespace engram {

struct MmaFacts {
  int64_t sums = 0;
  // Of chains of a few steps: those that are not as FusedSum says
  // (tests/cuda_emulation/device/fused_sum.h), and those that change where an
  // input has another place in its step.
  int64_t unlike_host = 0;
  int64_t unlike_by_place = 0;
};

// REQUIRES: a device.
MmaFacts FindMmaFacts(bool is_float16);

// Values of float16 or bfloat16 between 1/16 and 2, of random sign and
// mantissa: of zeros a card computes more than it can of others.
std::vector<uint16_t> RandomHalves(bool is_float16, uint32_t seed,
                                   int64_t count);
// What they stand for.
std::vector<float> Widened(bool is_float16,
                           const std::vector<uint16_t>& halves);

}  // namespace engram

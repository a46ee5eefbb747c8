// The arithmetic of a draw (kernels/outcomes.h), once for every back end: plain
// functions of numbers, whose operations IEEE 754 rounds exactly, with fmaf
// where a product and a sum are fused. CUDA's files include it too; there, as
// here, nothing else may be fused (-fmad=false, -ffp-contract=off).
//
// No result depends on whether the calling thread flushes denormal numbers.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ENGRAM_HOST_DEVICE __host__ __device__
#else
#define ENGRAM_HOST_DEVICE
#endif

namespace engram {

// The mass of the highest score; sums over 2^17 ids stay below 2^57.
inline constexpr float kMassOfBest = 0x1p40f;

// A denormal number as 0, -0 as 0, NaN as -infinity: then scores are equal
// where their bits are.
ENGRAM_HOST_DEVICE inline float CleanScore(float score) {
  if (score != score) return -HUGE_VALF;
  return std::fabs(score) < FLT_MIN ? 0.0f : score;
}

// A key of a clean score that is ordered as scores are.
ENGRAM_HOST_DEVICE inline uint32_t ScoreKey(float score) {
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The score after a repetition penalty, and after presence and frequency.
ENGRAM_HOST_DEVICE inline float AfterRepetition(float score, float penalty) {
  return CleanScore(score < 0 ? score * penalty : score / penalty);
}
ENGRAM_HOST_DEVICE inline float AfterCount(float score, float presence,
                                           float frequency, int32_t count) {
  const float subtracted =
      CleanScore(presence + CleanScore(frequency * static_cast<float>(count)));
  return CleanScore(score - subtracted);
}

// e^x for x <= 89, within 2 units in the last place; exactly 1 at 0; 0 below
// -87, infinity above 88.72; NaN stays NaN. The operations are those of Exp in
// kernels/cpu/math-inl.h, where they are explained.
ENGRAM_HOST_DEVICE inline float ExpUpTo89(float x) {
  x = x < -87.5f ? -87.5f : x;
  const float shifted = std::fmaf(x, 0x1.715476p+0f, 0x1.8p23f);
  const float k = shifted - 0x1.8p23f;
  float r = std::fmaf(-k, 0x1.63p-1f, x);
  r = std::fmaf(-k, -0x1.bd0106p-13f, r);
  float sum = 2.0f / 5040.0f;
  sum = std::fmaf(sum, r, 2.0f / 720.0f);
  sum = std::fmaf(sum, r, 2.0f / 120.0f);
  sum = std::fmaf(sum, r, 2.0f / 24.0f);
  sum = std::fmaf(sum, r, 2.0f / 6.0f);
  sum = std::fmaf(sum, r, 1.0f);
  sum = std::fmaf(sum, r, 2.0f);
  sum = std::fmaf(sum, r, 2.0f);
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  const uint32_t exponent = (static_cast<uint32_t>(bits) + 126u) << 23;
  float scale;
  std::memcpy(&scale, &exponent, sizeof(scale));
  return sum * scale;
}

// A denormal temperature is 0 too.
ENGRAM_HOST_DEVICE inline bool IsGreedy(float temperature) {
  return temperature < FLT_MIN;
}

// exp((score - best) / temperature) of clean scores, of which `best` is the
// highest. REQUIRES: not IsGreedy(temperature).
ENGRAM_HOST_DEVICE inline float SamplingWeight(float score, float best,
                                               float temperature) {
  if (score == best) return 1.0f;
  return ExpUpTo89(CleanScore(score - best) / temperature);
}

ENGRAM_HOST_DEVICE inline uint64_t SamplingMass(float weight) {
  return static_cast<uint64_t>(weight * kMassOfBest);
}

// ceil(top_p * total), where top_p counts in units of 2^-64. REQUIRES: 0 <
// top_p < 1, total < 2^63.
ENGRAM_HOST_DEVICE inline uint64_t TopPMass(float top_p, uint64_t total) {
  const double units = std::ceil(static_cast<double>(top_p) * 0x1p64);
  const auto product = static_cast<unsigned __int128>(units) * total;
  const unsigned __int128 all_fraction_bits = ~uint64_t{0};
  return static_cast<uint64_t>((product + all_fraction_bits) >> 64);
}

// Of `count` ids with `mass` each, how many reach `wanted`. REQUIRES: mass > 0.
ENGRAM_HOST_DEVICE inline int64_t IdsToReach(uint64_t wanted, uint64_t mass) {
  return static_cast<int64_t>((wanted + mass - 1) / mass);
}

// Ten rounds of Philox4x32 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", 2011): four words that depend on nothing but the arguments.
struct PhiloxWords {
  uint32_t word[4];
};
ENGRAM_HOST_DEVICE inline PhiloxWords Philox4x32(PhiloxWords counter,
                                                 uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0,
                static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1,
                static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// 53 uniform bits for the token at `index` of the sequence: Philox4x32 with key
// = seed (low word first), counter = index (low word first, upper two words 0),
// (x0 << 32 | x1) >> 11.
ENGRAM_HOST_DEVICE inline uint64_t RandomBitsAt(uint64_t seed, uint64_t index) {
  const PhiloxWords x = Philox4x32({{static_cast<uint32_t>(index),
                                     static_cast<uint32_t>(index >> 32), 0, 0}},
                                   static_cast<uint32_t>(seed),
                                   static_cast<uint32_t>(seed >> 32));
  return ((uint64_t{x.word[0]} << 32) | x.word[1]) >> 11;
}

// What the running sum of masses has to pass: floor(bits * total / 2^53), below
// `total`.
ENGRAM_HOST_DEVICE inline uint64_t DrawnMass(uint64_t bits, uint64_t total) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits) * total) >>
                               53);
}

}  // namespace engram

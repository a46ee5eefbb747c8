#include "tests/device_facts/mma_facts.h"

#include <cmath>
#include <cstring>
#include <random>

#include "kernels/status.h"
#include "kernels/weight_values.h"
#include "tests/cuda_emulation/device/fused_sum.h"
#include "tests/device_facts/device_array.h"
#include "tests/device_facts/mma_chain.h"

namespace engram {
namespace {

constexpr int64_t kTokens = 64, kOutputs = 64, kInputs = 64;

bool SameBits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

std::vector<uint16_t> RandomHalves(bool is_float16, uint32_t seed,
                                   int64_t count) {
  std::mt19937 random(seed);
  std::vector<uint16_t> halves(count);
  for (uint16_t& half : halves) {
    const float value = std::ldexp(1 + (random() & 0x3ff) * 0x1p-10f,
                                   -static_cast<int>(random() % 5)) *
                        (random() % 2 == 0 ? 1 : -1);
    half = is_float16 ? NarrowToFloat16(value) : NarrowToBFloat16(value);
  }
  return halves;
}

std::vector<float> Widened(bool is_float16,
                           const std::vector<uint16_t>& halves) {
  std::vector<float> values;
  for (const uint16_t half : halves) {
    values.push_back(is_float16 ? WidenFloat16(half) : WidenBFloat16(half));
  }
  return values;
}

MmaFacts FindMmaFacts(bool is_float16) {
  const auto x = RandomHalves(is_float16, 1, kTokens * kInputs);
  const auto weight = RandomHalves(is_float16, 2, kOutputs * kInputs);
  const DeviceArray<uint16_t> device_x(x), device_weight(weight);
  const auto chain = [&](bool beside) {
    const DeviceArray<float> y(std::vector<float>(kTokens * kOutputs));
    MmaChainArguments arguments;
    arguments.tokens = kTokens;
    arguments.outputs = kOutputs;
    arguments.inputs = arguments.stride = kInputs;
    arguments.x = device_x.data();
    arguments.weight = device_weight.data();
    arguments.is_float16 = is_float16;
    arguments.beside = beside;
    arguments.y = y.data();
    ENGRAM_CHECK(MmaChain(nullptr, arguments) == cudaSuccess);
    ENGRAM_CHECK(cudaDeviceSynchronize() == cudaSuccess);
    return y.ToHost();
  };
  const std::vector<float> beside = chain(true), apart = chain(false);
  const std::vector<float> a = Widened(is_float16, x);
  const std::vector<float> b = Widened(is_float16, weight);
  MmaFacts facts;
  for (int64_t i = 0; i < kTokens * kOutputs; ++i) {
    float sum = 0;
    for (int64_t k = 0; k < kInputs; k += emulation::kFusedProducts) {
      sum = emulation::FusedSum(is_float16, &a[i / kOutputs * kInputs + k],
                                &b[i % kOutputs * kInputs + k], sum);
    }
    ++facts.sums;
    if (!SameBits(sum, beside[i])) ++facts.unlike_host;
    if (!SameBits(apart[i], beside[i])) ++facts.unlike_by_place;
  }
  return facts;
}

}  // namespace engram

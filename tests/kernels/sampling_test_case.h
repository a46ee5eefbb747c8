// Logits and draws for the tests of outcomes.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "kernels/outcomes.h"

namespace engram {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using Logits = std::vector<float>;

inline Logits RandomLogits(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 2);
  Logits logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

inline Logits Logarithms(Logits probabilities) {
  for (float& value : probabilities) value = std::log(value);
  return probabilities;
}

inline TokenDraw DrawOf(const SamplingParameters& parameters,
                        uint64_t index = 0) {
  return {.parameters = &parameters, .index = index};
}

// One draw of anything: sizes around every edge, many ties, values of all
// magnitudes, all parameters on and off.
struct RandomDraw {
  explicit RandomDraw(unsigned seed) : RandomDraw(seed, 0) {}
  // Of so many ids.
  RandomDraw(unsigned seed, int64_t ids) : random(seed) {
    const int64_t size = OneOf<int64_t>({1, 2, 7, 16, 50, 255, 256, 257, 3000});
    if (ids == 0) ids = size;
    const float step = OneOf<float>({0, 0.5f, 4});
    const float spread = OneOf<float>({0.01f, 1, 3, 30});
    for (int64_t id = 0; id < ids; ++id) {
      float logit = std::normal_distribution<float>(0, spread)(random);
      if (step > 0) logit = std::round(logit / step) * step;
      if (random() % 50 == 0) logit = OneOf<float>({0, -0.0f, 1e-40f, -1e-39f});
      if (random() % 100 == 0) logit = OneOf<float>({-kInfinity, kNan, 3e38f});
      logits.push_back(logit);
    }
    parameters.temperature =
        OneOf<float>({0, 1e-45f, 2e-38f, 0.1f, 0.8f, 1, 7, 100});
    parameters.top_k =
        OneOf<int32_t>({0, 0, 1, 2, 40, static_cast<int32_t>(ids), 1 << 30});
    parameters.top_p = OneOf<float>({1, 1, 1e-30f, 0.1f, 0.5f, 0.95f, 0.9999f});
    parameters.min_p = OneOf<float>({0, 0, 1e-6f, 0.05f, 0.5f, 1});
    parameters.repetition_penalty = OneOf<float>({1, 1, 1.3f, 0.5f, 100});
    parameters.presence_penalty = OneOf<float>({0, 0, 0.7f, -2, 1e-40f});
    parameters.frequency_penalty = OneOf<float>({0, 0, 0.3f, -1});
    parameters.seed = random();
    seen = TokenSet(ids);
    for (int i = 0; i < 20; ++i) {
      const auto id = static_cast<int32_t>(random() % ids);
      if (i % 2 == 0) seen.Insert(id);
      if (i % 3 == 0) ++generated[id];
      if (i % 5 == 0) parameters.logit_bias[id] = OneOf<float>({-100, .25f, 9});
    }
    newest = OneOf<int32_t>({-1, static_cast<int32_t>(random() % ids)});
    if (!generated.empty()) {
      newest = OneOf<int32_t>({newest, generated.begin()->first});
    }
    for (int i = 0; i < 3; ++i) {
      stop_ids.push_back(static_cast<int32_t>(random() % ids));
    }
    is_last = random() % 8 == 0;
  }

  template <typename T>
  T OneOf(std::vector<T> values) {
    return values[random() % values.size()];
  }

  OutcomeRequest Request(uint64_t index) const {
    return {.draw = {.parameters = &parameters,
                     .index = index,
                     .seen = &seen,
                     .generated = &generated,
                     .newest = newest,
                     .stop_ids = stop_ids,
                     .is_last = is_last}};
  }

  std::mt19937 random;
  Logits logits;
  SamplingParameters parameters;
  TokenSet seen;
  std::map<int32_t, int32_t> generated;
  int32_t newest = -1;
  std::vector<int32_t> stop_ids;
  bool is_last = false;
};

}  // namespace engram

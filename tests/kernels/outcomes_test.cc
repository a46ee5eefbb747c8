// Backend::Outcomes on every back end: what the rule says at its edges, and the
// same tokens as the plain sampler for whatever logits and parameters.
#include "kernels/outcomes.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/sampling_rule.h"
#include "tests/kernels/backend_under_test.h"
#include "tests/kernels/sampling_test_case.h"
#include "tests/support/plain_sampler.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

OutcomeRequest Scoring(int32_t id, int32_t alternatives = 0) {
  OutcomeRequest request;
  request.scored = id;
  request.alternatives = alternatives;
  return request;
}

class Outcomes : public BackendUnderTestSuite {
 protected:
  // Of rows of `ids` logits, one after another, or each `stride` behind the one
  // before.
  std::vector<Outcome> Run(const Logits& logits, int64_t ids,
                           const std::vector<OutcomeRequest>& requests,
                           int64_t stride = 0) {
    const auto rows = static_cast<int64_t>(requests.size());
    ENGRAM_CHECK_OK(backend().ReserveSteps({.outcomes = rows, .ids = ids}));
    auto buffer = backend().Allocate(logits.size() * sizeof(float));
    ENGRAM_CHECK_OK(buffer.status());
    ENGRAM_CHECK_OK(backend().CopyFromHost((*buffer)->data(), logits.data(),
                                           logits.size() * sizeof(float)));
    std::vector<Outcome> outcomes(requests.size());
    backend().Outcomes({(*buffer)->floats(), std::max(stride, ids)}, ids,
                       requests, absl::MakeSpan(outcomes));
    ENGRAM_CHECK_OK(backend().Synchronize());
    return outcomes;
  }

  Outcome RunOne(const Logits& logits, const OutcomeRequest& request) {
    return Run(logits, static_cast<int64_t>(logits.size()), {request})[0];
  }

  // An emulated device takes its time: of what many rows tell together, fewer
  // are asked for there.
  uint64_t FewerIfEmulated(uint64_t rows) const {
    return GetParam().kind == BackendKind::kCuda ? rows / 8 : rows;
  }

  int32_t Sample(const Logits& logits, const SamplingParameters& parameters,
                 uint64_t index = 0) {
    return RunOne(logits, {.draw = DrawOf(parameters, index)}).token;
  }

  // The tokens at index 0, 1, ... of the same row.
  std::vector<int32_t> SampleMany(const Logits& logits,
                                  const SamplingParameters& parameters,
                                  uint64_t count) {
    Logits rows;
    std::vector<OutcomeRequest> requests;
    for (uint64_t index = 0; index < count; ++index) {
      rows.insert(rows.end(), logits.begin(), logits.end());
      requests.push_back({.draw = DrawOf(parameters, index)});
    }
    std::vector<int32_t> tokens;
    for (const Outcome& outcome :
         Run(rows, static_cast<int64_t>(logits.size()), requests)) {
      tokens.push_back(outcome.token);
    }
    return tokens;
  }
};
INSTANTIATE_TEST_SUITE_P(All, Outcomes,
                         ::testing::ValuesIn(BackendsUnderTest()),
                         ::testing::PrintToStringParamName());

TEST_P(Outcomes, TakeTheBestAtTemperatureZero) {
  EXPECT_EQ(Sample({1, 3, 2}, {}), 1);
}

TEST_P(Outcomes, TakeTheLowestIdOfEquals) {
  EXPECT_EQ(Sample({1, 3, 3, 3}, {}), 1);
  EXPECT_EQ(Sample({-0.0f, 0.0f}, {}), 0);
  EXPECT_EQ(Sample({-1, -1e-40f, 1e-40f}, {}), 1);
  Logits late(1000, -1);
  late[777] = late[901] = 5;
  EXPECT_EQ(Sample(late, {}), 777);
}

TEST_P(Outcomes, NeverDrawAMaskedToken) {
  const Logits logits = {-kInfinity, 0, kNan, 0, -kInfinity};
  for (float temperature : {0.0f, 1e-30f, 1.0f, 100.0f}) {
    for (int32_t id : SampleMany(logits, {.temperature = temperature}, 1000)) {
      EXPECT_TRUE(id == 1 || id == 3) << id;
    }
  }
}

TEST_P(Outcomes, DrawNothingWhereEverythingIsMasked) {
  const Logits masked = {-kInfinity, kNan};
  EXPECT_EQ(Sample(masked, {}), -1);
  EXPECT_EQ(Sample(masked, {.temperature = 1}), -1);
  EXPECT_EQ(
      Sample(masked, {.temperature = 1, .top_k = 1, .top_p = .5, .min_p = 1}),
      -1);
}

TEST_P(Outcomes, SurviveExtremeLogits) {
  EXPECT_EQ(Sample({kInfinity, 0}, {.temperature = 1}), 0);
  EXPECT_EQ(Sample({3e38f, -3e38f}, {.temperature = 1e-38f}), 0);
  EXPECT_EQ(Sample({-3e38f, -2.9e38f}, {.temperature = 1e-45f}), 1);
}

TEST_P(Outcomes, TellWhetherAllLogitsAreFinite) {
  for (const int64_t ids : kEdgeSizes) {
    for (const float broken : {kInfinity, -kInfinity, kNan}) {
      for (const int64_t place : {int64_t{0}, ids / 2, ids - 1}) {
        Logits logits = RandomLogits(ids, 5);
        EXPECT_TRUE(RunOne(logits, {}).finite);
        logits[place] = broken;
        EXPECT_FALSE(RunOne(logits, {}).finite) << place << " of " << ids;
      }
    }
  }
}

TEST_P(Outcomes, DrawTheSameTokenForTheSameSeedAndIndex) {
  const Logits logits = RandomLogits(1000, 1);
  const SamplingParameters parameters = {.temperature = 1, .seed = 99};
  const int32_t first = Sample(logits, parameters, 5);
  Sample(RandomLogits(1000, 2), {.temperature = 2}, 6);
  EXPECT_EQ(Sample(logits, parameters, 5), first);
  int same = 0;
  for (uint64_t index = 6; index < 26; ++index) {
    same += Sample(logits, parameters, index) == first;
  }
  EXPECT_LT(same, 10);
}

TEST_P(Outcomes, AddTheBiasFirst) {
  EXPECT_EQ(Sample({1, 3, 2}, {.logit_bias = {{2, 5.0f}}}), 2);
  EXPECT_EQ(Sample({1, -kInfinity}, {.logit_bias = {{1, 100.0f}}}), 0);
}

// Pearson's statistic; its mean is the number of tokens less one. 49 degrees of
// freedom: 95 is exceeded with a probability of 1e-4; 22 is fallen below with
// one of 3e-4.
TEST_P(Outcomes, DrawFromTheSoftmax) {
  const uint64_t draws = FewerIfEmulated(100000);
  const Logits logits = RandomLogits(50, 4);
  double total = 0;
  for (float logit : logits) total += std::exp(logit / 2.0);
  for (uint64_t seed : {0ull, 1ull, 42ull, ~0ull}) {
    std::vector<int> counts(logits.size());
    for (int32_t id :
         SampleMany(logits, {.temperature = 2, .seed = seed}, draws)) {
      ++counts[id];
    }
    double statistic = 0;
    for (size_t id = 0; id < logits.size(); ++id) {
      const double expected = draws * std::exp(logits[id] / 2.0) / total;
      statistic += (counts[id] - expected) * (counts[id] - expected) / expected;
    }
    EXPECT_LT(statistic, 95) << seed;
    EXPECT_GT(statistic, 22) << seed;
  }
}

// Of two ids the first is drawn, since the random number is so small, unless
// min_p leaves it out: so the weight is seen to the last bit.
TEST_P(Outcomes, WeighByTheRuleToTheLastBit) {
  uint64_t index = 0;
  while (RandomBitsAt(0, index) >> 37 != 0) ++index;
  std::mt19937 random(7);
  std::vector<SamplingParameters> parameters;
  Logits logits;
  for (int i = 0; i < 4000; ++i) {
    const float temperature =
        std::exp(std::uniform_real_distribution<float>(-3, 3)(random));
    const float best = std::normal_distribution<float>(0, 10)(random);
    const float score =
        best -
        temperature * std::uniform_real_distribution<float>(0, 9)(random);
    const float weight = SamplingWeight(score, best, temperature);
    for (const float min_p : {weight, std::nextafter(weight, 2.0f)}) {
      logits.insert(logits.end(), {score, best});
      parameters.push_back(
          {.temperature = temperature, .min_p = std::min(min_p, 1.0f)});
    }
  }
  std::vector<OutcomeRequest> requests;
  for (const SamplingParameters& one : parameters) {
    requests.push_back({.draw = DrawOf(one, index)});
  }
  const std::vector<Outcome> outcomes = Run(logits, 2, requests);
  for (size_t i = 0; i < outcomes.size(); ++i) {
    const bool equal = logits[2 * i] == logits[2 * i + 1];
    ASSERT_EQ(outcomes[i].token, i % 2 == 0 || equal ? 0 : 1)
        << logits[2 * i] << " below " << logits[2 * i + 1] << " at "
        << parameters[i].temperature;
  }
}

TEST_P(Outcomes, DrawWhatThePlainSamplerDraws) {
  const uint64_t draws = FewerIfEmulated(24);
  for (unsigned seed = 0; seed < 600; ++seed) {
    const RandomDraw draw(seed);
    Logits rows;
    std::vector<OutcomeRequest> requests;
    for (uint64_t index = 0; index < draws; ++index) {
      rows.insert(rows.end(), draw.logits.begin(), draw.logits.end());
      requests.push_back(draw.Request(index));
    }
    const std::vector<Outcome> outcomes =
        Run(rows, static_cast<int64_t>(draw.logits.size()), requests);
    for (uint64_t index = 0; index < draws; ++index) {
      ASSERT_EQ(outcomes[index].token,
                PlainSample(draw.logits, requests[index].draw))
          << "seed " << seed << ", index " << index;
    }
  }
}

TEST_P(Outcomes, StopWhereTheDrawSaysOrThereIsNothingToFeed) {
  int stops = 0, goes_on = 0;
  for (unsigned seed = 0; seed < 600; ++seed) {
    const RandomDraw draw(seed);
    const bool expected = PlainOutcome(draw.logits, draw.Request(0)).stops;
    ++(expected ? stops : goes_on);
    ASSERT_EQ(RunOne(draw.logits, draw.Request(0)).stops, expected)
        << "seed " << seed;
  }
  EXPECT_GT(stops, 30);
  EXPECT_GT(goes_on, 30);
}

// The largest id that is kept is drawn when the random number is large: so both
// ends of what top_k, top_p and min_p keep are seen.
TEST_P(Outcomes, KeepWhatThePlainSamplerKeeps) {
  uint64_t first = 0, last = 0;
  while (RandomBitsAt(0, first) >> 39 != 0) ++first;
  while (~RandomBitsAt(0, last) << 11 >> 50 != 0) ++last;
  for (unsigned seed = 0; seed < 1000; ++seed) {
    RandomDraw draw(seed);
    draw.parameters.seed = 0;
    // Ends by the masses of many, each of which is far above 2^-14 of them.
    if (draw.logits.size() > 300) continue;
    for (const uint64_t index : {first, last}) {
      ASSERT_EQ(RunOne(draw.logits, draw.Request(index)).token,
                PlainSample(draw.logits, draw.Request(index).draw))
          << "seed " << seed;
    }
  }
}

// Scores fall with the id, so that the last id that is kept is drawn; they lie
// so close that hundreds have about the same weight.
TEST_P(Outcomes, CutTopPBetweenScoresThatCrowd) {
  uint64_t last = 0;
  while (~RandomBitsAt(0, last) << 11 >> 50 != 0) ++last;
  Logits logits;
  for (int id = 0; id < 300; ++id) logits.push_back(-1e-4f * id);
  for (float top_p = 0.011f; top_p < 1; top_p += 0.0243f) {
    const SamplingParameters parameters = {.temperature = 1, .top_p = top_p};
    EXPECT_EQ(Sample(logits, parameters, last),
              PlainCandidates(logits, DrawOf(parameters)).back().id)
        << top_p;
  }
}

TEST_P(Outcomes, FindACutAmongEqualsThatFillTheVocabulary) {
  const Logits logits(50280, 1.5f);
  for (const float top_p : {1e-30f, 0.25f, 0.95f}) {
    for (const uint64_t index : {0, 1, 2, 3}) {
      const SamplingParameters parameters = {.temperature = 1, .top_p = top_p};
      EXPECT_EQ(Sample(logits, parameters, index),
                PlainSample(logits, DrawOf(parameters, index)));
    }
  }
}

TEST_P(Outcomes, TellLogProbabilitiesOfTheRawLogits) {
  for (const int64_t ids : {1, 2, 15, 16, 17, 300, 50280}) {
    const Logits logits = RandomLogits(ids, 8);
    const SamplingParameters parameters = {
        .temperature = 3, .top_k = 5, .logit_bias = {{0, -50.0f}}};
    OutcomeRequest request = {.draw = DrawOf(parameters), .alternatives = 20};
    const Outcome drawn = RunOne(logits, request);
    const Outcome expected = PlainOutcome(logits, request);
    EXPECT_EQ(drawn.token, expected.token);
    EXPECT_NEAR(drawn.log_probability, expected.log_probability,
                2e-7 * (1 + std::fabs(expected.log_probability)));
    ASSERT_EQ(drawn.top.size(), expected.top.size());
    for (size_t i = 0; i < drawn.top.size(); ++i) {
      EXPECT_EQ(drawn.top[i].id, expected.top[i].id);
      EXPECT_NEAR(drawn.top[i].value, expected.top[i].value,
                  2e-7 * (1 + std::fabs(expected.top[i].value)));
    }
    const auto last = static_cast<int32_t>(ids - 1);
    const Outcome scored = RunOne(logits, Scoring(last));
    EXPECT_EQ(scored.token, -1);
    EXPECT_NEAR(scored.log_probability, LogProbabilityOf(logits, last), 4e-6);
    EXPECT_THAT(scored.top, IsEmpty());
  }
}

TEST_P(Outcomes, TellSmallLogProbabilitiesExactly) {
  const Logits logits = {0, -13, -14};
  const float exact = LogProbabilityOf(logits, 0);
  EXPECT_NEAR(RunOne(logits, Scoring(0)).log_probability, exact,
              std::fabs(exact) * 4e-7);
}

TEST_P(Outcomes, TellNoLogProbabilityOfWhatIsMasked) {
  const Logits logits = {0, -kInfinity, kNan, 0};
  for (const int32_t id : {1, 2}) {
    EXPECT_EQ(RunOne(logits, Scoring(id)).log_probability, -kInfinity);
  }
  const Outcome outcome = RunOne(logits, Scoring(3, 4));
  EXPECT_NEAR(outcome.log_probability, std::log(0.5), 1e-6);
  ASSERT_EQ(outcome.top.size(), 2);
  EXPECT_EQ(outcome.top[0].id, 0);
  EXPECT_EQ(outcome.top[1].id, 3);
}

TEST_P(Outcomes, RankAlternativesByProbabilityThenId) {
  const Logits logits = {0, 2, 1, 2, 7};
  std::vector<int32_t> ids;
  for (const LogProbability& told : RunOne(logits, Scoring(0, 4)).top) {
    ids.push_back(told.id);
  }
  EXPECT_THAT(ids, ElementsAre(4, 1, 3, 2));
}

// Rows of all kinds side by side, more than strips, with a stride of their own.
TEST_P(Outcomes, DependOnTheirOwnRowOnly) {
  constexpr int64_t kRows = 50, kIds = 300, kStride = 320;
  const SamplingParameters parameters = {.temperature = 0.8f, .top_p = 0.9f};
  const SamplingParameters greedy;
  Logits all = RandomLogits(kRows * kStride, 11);
  std::vector<OutcomeRequest> requests;
  for (int64_t row = 0; row < kRows; ++row) {
    const auto id = static_cast<int32_t>(row);
    requests.push_back(Scoring(row % 3 == 0 ? id : -1, id % 4));
    requests.back().draw = DrawOf(row % 2 == 0 ? parameters : greedy, row);
  }
  const std::vector<Outcome> outcomes = Run(all, kIds, requests, kStride);
  for (int64_t row = 0; row < kRows; ++row) {
    const auto begin = all.begin() + row * kStride;
    const Outcome alone = RunOne(Logits(begin, begin + kIds), requests[row]);
    EXPECT_EQ(outcomes[row].token, alone.token);
    EXPECT_EQ(outcomes[row].log_probability, alone.log_probability);
    ASSERT_EQ(outcomes[row].top.size(), requests[row].alternatives);
    for (size_t i = 0; i < alone.top.size(); ++i) {
      EXPECT_EQ(outcomes[row].top[i].id, alone.top[i].id);
      EXPECT_EQ(outcomes[row].top[i].value, alone.top[i].value);
    }
  }
}

}  // namespace
}  // namespace engram

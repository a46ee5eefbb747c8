#include "model/sampler.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/folders.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> RandomLogits(int count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

int32_t SampleOne(const std::vector<float>& logits,
                  const SamplingParameters& parameters, uint64_t index = 0) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  return sampler.Sample(logits, parameters, index, nullptr, {});
}

// The ids that may be drawn.
std::vector<int32_t> Survivors(const std::vector<float>& logits,
                               const SamplingParameters& parameters) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  std::vector<int32_t> ids;
  for (const auto& candidate :
       sampler.Candidates(logits, parameters, nullptr, {})) {
    ids.push_back(candidate.id);
  }
  return ids;
}

TEST(Philox, GivesTheKnownAnswersOfRandom123) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
                         {0xffffffff, 0xffffffff}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                         {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(Philox, GivesUniformNumbersBelowOne) {
  EXPECT_EQ(UniformAt(0, 0),
            static_cast<double>(0x6627e8d5e169c58d >> 11) * 0x1p-53);
  double sum = 0;
  for (uint64_t index = 0; index < 10000; ++index) {
    const double u = UniformAt(1234567890123, index);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.01);
}

TEST(Philox, DependsOnEveryBitOfSeedAndIndex) {
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_NE(UniformAt(uint64_t{1} << bit, 0), UniformAt(0, 0));
    EXPECT_NE(UniformAt(0, uint64_t{1} << bit), UniformAt(0, 0));
  }
}

TEST(Sampler, TakesTheBestAtTemperatureZero) {
  EXPECT_EQ(SampleOne({1, 3, 2}, {}), 1);
}

TEST(Sampler, TakesTheLowestIdOfEquals) {
  EXPECT_EQ(SampleOne({1, 3, 3, 3}, {}), 1);
  EXPECT_EQ(SampleOne({-0.0f, 0.0f}, {}), 0);
}

TEST(Sampler, NeverDrawsAMaskedToken) {
  const std::vector<float> logits = {-kInfinity, 0, kNan, 0, -kInfinity};
  for (float temperature : {0.0f, 1e-30f, 1.0f, 100.0f}) {
    for (uint64_t index = 0; index < 1000; ++index) {
      const int32_t id = SampleOne(logits, {.temperature = temperature}, index);
      EXPECT_TRUE(id == 1 || id == 3) << id;
    }
  }
}

TEST(Sampler, DrawsNothingWhereEverythingIsMasked) {
  EXPECT_EQ(SampleOne({-kInfinity, kNan}, {}), -1);
  EXPECT_EQ(SampleOne({-kInfinity, kNan}, {.temperature = 1}), -1);
  EXPECT_EQ(SampleOne({-kInfinity, kNan},
                      {.temperature = 1, .top_k = 1, .top_p = .5, .min_p = 1}),
            -1);
}

TEST(Sampler, SurvivesExtremeLogits) {
  EXPECT_EQ(SampleOne({kInfinity, 0}, {.temperature = 1}), 0);
  EXPECT_EQ(SampleOne({3e38f, -3e38f}, {.temperature = 1e-38f}), 0);
  EXPECT_EQ(SampleOne({-3e38f, -2.9e38f}, {.temperature = 1e-45f}), 1);
}

TEST(Sampler, GivesTheSameTokenForTheSameSeedAndIndex) {
  const std::vector<float> logits = RandomLogits(1000, 1);
  SamplingParameters parameters = {.temperature = 1, .seed = 99};
  Sampler sampler(1000);
  const int32_t first = sampler.Sample(logits, parameters, 5, nullptr, {});
  sampler.Sample(RandomLogits(1000, 2), {.temperature = 2}, 6, nullptr, {});
  EXPECT_EQ(sampler.Sample(logits, parameters, 5, nullptr, {}), first);
  int same = 0;
  for (uint64_t index = 6; index < 26; ++index) {
    same += sampler.Sample(logits, parameters, index, nullptr, {}) == first;
  }
  EXPECT_LT(same, 10);
}

TEST(Sampler, KeepsTiesWithTheLastOfTopK) {
  const std::vector<float> logits = {1, 5, 3, 3, 4, 3};
  EXPECT_THAT(Survivors(logits, {.temperature = 1, .top_k = 3}),
              ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(Survivors(logits, {.temperature = 1, .top_k = 2}),
              ElementsAre(1, 4));
  EXPECT_THAT(Survivors(logits, {.temperature = 1, .top_k = 99}),
              ElementsAre(0, 1, 2, 3, 4, 5));
}

std::vector<float> Logarithms(std::vector<float> probabilities) {
  for (float& value : probabilities) value = std::log(value);
  return probabilities;
}

TEST(Sampler, KeepsTheSmallestSetThatReachesTopP) {
  const std::vector<float> logits = Logarithms({.1, .4, .2, .3});
  const auto survivors = [&](float top_p) {
    return Survivors(logits, {.temperature = 1, .top_p = top_p});
  };
  EXPECT_THAT(survivors(0.01), ElementsAre(1));
  EXPECT_THAT(survivors(0.39), ElementsAre(1));
  EXPECT_THAT(survivors(0.41), ElementsAre(1, 3));
  EXPECT_THAT(survivors(0.71), ElementsAre(1, 2, 3));
  EXPECT_THAT(survivors(0.91), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(survivors(1), ElementsAre(0, 1, 2, 3));
}

TEST(Sampler, PrefersLowIdsAmongEqualsForTopP) {
  EXPECT_THAT(Survivors({0, 0, 0, 0}, {.temperature = 1, .top_p = 0.5}),
              ElementsAre(0, 1));
}

// The sets grow in steps inside the sampler; each must give the same result as
// a full sort.
TEST(Sampler, FindsTopPAmongManyTokens) {
  const std::vector<float> logits = RandomLogits(20000, 3);
  std::vector<std::pair<float, int32_t>> ranking;
  double total = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    ranking.emplace_back(-logits[id], id);
    total += std::exp(static_cast<double>(logits[id]));
  }
  std::sort(ranking.begin(), ranking.end());
  for (float top_p : {0.001f, 0.1f, 0.3f, 0.5f, 0.9f, 0.99f, 0.9999f}) {
    double mass = 0;
    size_t expected = 0;
    while (mass < top_p * total) mass += std::exp(-ranking[expected++].first);
    const auto ids = Survivors(logits, {.temperature = 1, .top_p = top_p});
    EXPECT_NEAR(ids.size(), expected, 1 + expected * 1e-4) << top_p;
    EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
  }
}

TEST(Sampler, KeepsWhatIsNotFarBelowTheBestForMinP) {
  const std::vector<float> logits = Logarithms({.1, .4, .21, .29});
  EXPECT_THAT(Survivors(logits, {.temperature = 1, .min_p = 0.5}),
              ElementsAre(1, 2, 3));
  EXPECT_THAT(Survivors(logits, {.temperature = 1, .min_p = 1}),
              ElementsAre(1));
}

TEST(Sampler, AddsTheBiasFirst) {
  EXPECT_EQ(SampleOne({1, 3, 2}, {.logit_bias = {{2, 5.0f}}}), 2);
  EXPECT_EQ(SampleOne({1, -kInfinity}, {.logit_bias = {{1, 100.0f}}}), 0);
}

TEST(Sampler, PenalisesWhatWasSeen) {
  TokenSet seen(3);
  seen.Insert(0);
  seen.Insert(2);
  Sampler sampler(3);
  SamplingParameters parameters = {.temperature = 1, .repetition_penalty = 2};
  const auto candidates =
      sampler.Candidates(std::vector<float>{4, 3, -1}, parameters, &seen, {});
  EXPECT_EQ(candidates[0].score, 2);
  EXPECT_EQ(candidates[1].score, 3);
  EXPECT_EQ(candidates[2].score, -2);
}

TEST(Sampler, PenalisesWhatWasGenerated) {
  Sampler sampler(3);
  SamplingParameters parameters = {
      .temperature = 1, .presence_penalty = 0.5, .frequency_penalty = 0.25};
  const auto candidates = sampler.Candidates(
      std::vector<float>{4, 3, 2}, parameters, nullptr, {{0, 1}, {2, 4}});
  EXPECT_EQ(candidates[0].score, 3.25);
  EXPECT_EQ(candidates[1].score, 3);
  EXPECT_EQ(candidates[2].score, 0.5);
}

// Pearson's statistic; its mean is the number of tokens less one.
double ChiSquare(const std::vector<float>& logits, uint64_t seed, int draws) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  std::vector<int> counts(logits.size());
  for (int index = 0; index < draws; ++index) {
    ++counts[sampler.Sample(logits, {.temperature = 2, .seed = seed},
                            static_cast<uint64_t>(index), nullptr, {})];
  }
  double total = 0;
  for (float logit : logits) total += std::exp(logit / 2.0);
  double statistic = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    const double expected = draws * std::exp(logits[id] / 2.0) / total;
    statistic += (counts[id] - expected) * (counts[id] - expected) / expected;
  }
  return statistic;
}

// 49 degrees of freedom: 95 is exceeded with a probability of 1e-4; 22 is
// fallen below with one of 3e-4.
TEST(Sampler, DrawsFromTheSoftmax) {
  const std::vector<float> logits = RandomLogits(50, 4);
  for (uint64_t seed : {0ull, 1ull, 42ull, ~0ull}) {
    const double statistic = ChiSquare(logits, seed, 100000);
    EXPECT_LT(statistic, 95) << seed;
    EXPECT_GT(statistic, 22) << seed;
  }
}

SamplingParameters ParametersOf(const Json& sample) {
  SamplingParameters parameters;
  parameters.temperature = sample["temperature"];
  parameters.top_k = sample["top_k"];
  parameters.top_p = sample["top_p"];
  parameters.min_p = sample["min_p"];
  parameters.repetition_penalty = sample["repetition_penalty"];
  return parameters;
}

TEST(Sampler, MatchesTransformersLogitsProcessors) {
  std::ifstream file(ENGRAM_SOURCE_DIR
                     "/tests/golden/tokenizers/sampler_cases.json");
  const Json samples = Json::parse(file);
  EXPECT_GE(samples.size(), 60);
  for (const Json& sample : samples) {
    const auto logits = sample["logits"].get<std::vector<float>>();
    TokenSet seen(static_cast<int64_t>(logits.size()));
    for (int32_t id : sample["seen"]) seen.Insert(id);
    Sampler sampler(static_cast<int64_t>(logits.size()));
    const auto candidates =
        sampler.Candidates(logits, ParametersOf(sample), &seen, {});
    double total = 0;
    for (const auto& candidate : candidates) total += candidate.weight;
    ASSERT_EQ(candidates.size(), sample["ids"].size()) << sample.dump();
    for (size_t i = 0; i < candidates.size(); ++i) {
      EXPECT_EQ(candidates[i].id, sample["ids"][i]) << sample.dump();
      EXPECT_NEAR(candidates[i].weight / total,
                  sample["probabilities"][i].get<double>(), 1e-6);
    }
  }
}

TEST(Validate, AcceptsTheLimits) {
  EXPECT_TRUE(Validate({}, 10).ok());
  EXPECT_TRUE(Validate({.temperature = 100,
                        .top_k = 1 << 30,
                        .top_p = 1e-6f,
                        .min_p = 1,
                        .repetition_penalty = 100,
                        .presence_penalty = -100,
                        .frequency_penalty = 100,
                        .logit_bias = {{0, -100.0f}, {9, 100.0f}}},
                       10)
                  .ok());
}

TEST(Validate, NamesTheFieldTheValueAndTheLimits) {
  const absl::Status status = Validate({.top_p = 1.5}, 10);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "top_p is 1.5, must be in (0, 1]");
  EXPECT_EQ(Validate({.logit_bias = {{10, 1.0f}}}, 10).message(),
            "logit_bias has id 10, must be in [0, 9]");
}

TEST(Validate, RefusesWhatIsOutOfRangeOrNotANumber) {
  const std::map<const char*, std::vector<SamplingParameters>> refused = {
      {"temperature",
       {{.temperature = -1}, {.temperature = 101}, {.temperature = kNan}}},
      {"top_k", {{.top_k = -1}}},
      {"top_p", {{.top_p = 0}, {.top_p = 1.01}, {.top_p = kNan}}},
      {"min_p", {{.min_p = -0.1}, {.min_p = 1.1}, {.min_p = kNan}}},
      {"repetition_penalty",
       {{.repetition_penalty = 0},
        {.repetition_penalty = kInfinity},
        {.repetition_penalty = kNan}}},
      {"presence_penalty",
       {{.presence_penalty = 101}, {.presence_penalty = kNan}}},
      {"frequency_penalty",
       {{.frequency_penalty = -101}, {.frequency_penalty = kNan}}},
      {"logit_bias",
       {{.logit_bias = {{-1, 0.0f}}},
        {.logit_bias = {{1, 101.0f}}},
        {.logit_bias = {{1, kNan}}}}}};
  for (const auto& [field, cases] : refused) {
    for (const SamplingParameters& parameters : cases) {
      const absl::Status status = Validate(parameters, 10);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
      EXPECT_THAT(status.message(), HasSubstr(field));
    }
  }
}

TEST(LogProbabilities, AreTheLogarithmOfTheSoftmax) {
  const std::vector<float> logits = Logarithms({.1, .4, .2, .3});
  EXPECT_NEAR(LogProbabilityOf(logits, 1), std::log(0.4), 1e-6);
  EXPECT_EQ(LogProbabilityOf(std::vector<float>{0, -kInfinity}, 1), -kInfinity);
  EXPECT_NEAR(LogProbabilityOf(std::vector<float>{3e38f, 3e38f}, 1),
              std::log(0.5), 1e-6);
}

TEST(LogProbabilities, ComeBestFirstTiesByLowestId) {
  const std::vector<float> logits = {0, 2, 1, 2, -kInfinity};
  const auto best = TopLogProbabilities(logits, 3);
  ASSERT_EQ(best.size(), 3);
  EXPECT_EQ(best[0].id, 1);
  EXPECT_EQ(best[1].id, 3);
  EXPECT_EQ(best[2].id, 2);
  EXPECT_EQ(best[0].value, LogProbabilityOf(logits, 1));
  EXPECT_EQ(TopLogProbabilities(logits, 99).size(), 4);
  EXPECT_THAT(TopLogProbabilities(logits, 0), IsEmpty());
}

TEST(TokenSet, HoldsWhatWasInserted) {
  TokenSet set(130);
  for (int32_t id : {0, 63, 64, 129}) set.Insert(id);
  EXPECT_TRUE(set.Contains(63));
  EXPECT_FALSE(set.Contains(62));
  std::vector<int32_t> members;
  set.ForEach([&](int32_t id) { members.push_back(id); });
  EXPECT_THAT(members, ElementsAre(0, 63, 64, 129));
}

}  // namespace
}  // namespace engram

// The reference of outcomes against the rule that it writes down, and against
// the logits processors of transformers.
#include "tests/support/plain_sampler.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/sampling_rule.h"
#include "tests/kernels/sampling_test_case.h"
#include "tests/support/folders.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Json = nlohmann::json;

std::vector<uint32_t> Philox(const PhiloxWords& counter, uint32_t key0,
                             uint32_t key1) {
  const PhiloxWords words = Philox4x32(counter, key0, key1);
  return {words.word, words.word + 4};
}

TEST(Philox, GivesTheKnownAnswersOfRandom123) {
  EXPECT_THAT(Philox({{0, 0, 0, 0}}, 0, 0),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
                     0xffffffff, 0xffffffff),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
                     0xa4093822, 0x299f31d0),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(Philox, GivesUniformBits) {
  EXPECT_EQ(RandomBitsAt(0, 0), 0x6627e8d5e169c58d >> 11);
  double sum = 0;
  for (uint64_t index = 0; index < 10000; ++index) {
    const uint64_t bits = RandomBitsAt(1234567890123, index);
    ASSERT_LT(bits, uint64_t{1} << 53);
    sum += static_cast<double>(bits) * 0x1p-53;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.01);
}

TEST(Philox, DependsOnEveryBitOfSeedAndIndex) {
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_NE(RandomBitsAt(uint64_t{1} << bit, 0), RandomBitsAt(0, 0));
    EXPECT_NE(RandomBitsAt(0, uint64_t{1} << bit), RandomBitsAt(0, 0));
  }
}

TEST(SamplingRule, WeighsByTheExponentialFunction) {
  for (float x = 0; x > -60; x -= 0.0371f) {
    const double exact = std::exp(static_cast<double>(x));
    EXPECT_NEAR(SamplingWeight(x, 0, 1), exact, exact * 2.4e-7) << x;
  }
  EXPECT_EQ(SamplingWeight(3, 3, 0.7f), 1);
  EXPECT_EQ(SamplingWeight(-kInfinity, 3, 0.7f), 0);
  EXPECT_EQ(SamplingMass(1), uint64_t{1} << 40);
  EXPECT_EQ(SamplingMass(0x1p-40f), 1);
  EXPECT_EQ(SamplingMass(0x1.fffffep-41f), 0);
}

TEST(SamplingRule, RoundsTheMassOfTopPUp) {
  EXPECT_EQ(TopPMass(0.5f, 10), 5);
  EXPECT_EQ(TopPMass(0.5f, 11), 6);
  EXPECT_EQ(TopPMass(1e-30f, uint64_t{1} << 57), 1);
  EXPECT_EQ(TopPMass(0x1.fffffep-1f, uint64_t{1} << 24), (1 << 24) - 1);
  EXPECT_EQ(TopPMass(0x1.fffffep-1f, (uint64_t{1} << 24) + 1), 1 << 24);
}

TEST(SamplingRule, DrawsBelowTheTotal) {
  EXPECT_EQ(DrawnMass(0, 1000), 0);
  EXPECT_EQ(DrawnMass((uint64_t{1} << 53) - 1, uint64_t{1} << 57),
            (uint64_t{1} << 57) - 16);
  EXPECT_EQ(DrawnMass(uint64_t{1} << 52, 1001), 500);
}

TEST(SamplingRule, OrdersKeysAsScores) {
  const Logits ascending = {-kInfinity, -3e38f, -2, -1, 0, 1e-37f, 1, 3e38f};
  for (size_t i = 1; i < ascending.size(); ++i) {
    EXPECT_LT(ScoreKey(ascending[i - 1]), ScoreKey(ascending[i]));
  }
  EXPECT_EQ(ScoreKey(CleanScore(-0.0f)), ScoreKey(0.0f));
  EXPECT_EQ(CleanScore(-1e-40f), 0);
  EXPECT_EQ(CleanScore(kNan), -kInfinity);
}

std::vector<int32_t> Survivors(const Logits& logits,
                               const SamplingParameters& parameters) {
  std::vector<int32_t> ids;
  for (const auto& candidate : PlainCandidates(logits, DrawOf(parameters))) {
    ids.push_back(candidate.id);
  }
  return ids;
}

TEST(PlainSampler, KeepsTiesWithTheLastOfTopK) {
  const Logits logits = {1, 5, 3, 3, 4, 3};
  EXPECT_THAT(Survivors(logits, {.temperature = 1, .top_k = 3}),
              ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(Survivors(logits, {.temperature = 1, .top_k = 2}),
              ElementsAre(1, 4));
  EXPECT_THAT(Survivors(logits, {.temperature = 1, .top_k = 99}),
              ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST(PlainSampler, KeepsTheSmallestSetThatReachesTopP) {
  const Logits logits = Logarithms({.1, .4, .2, .3});
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

TEST(PlainSampler, PrefersLowIdsAmongEqualsForTopP) {
  EXPECT_THAT(Survivors({0, 0, 0, 0}, {.temperature = 1, .top_p = 0.5}),
              ElementsAre(0, 1));
}

TEST(PlainSampler, FindsTopPAmongManyTokens) {
  const Logits logits = RandomLogits(20000, 3);
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

TEST(PlainSampler, KeepsWhatIsNotFarBelowTheBestForMinP) {
  const Logits logits = Logarithms({.1, .4, .21, .29});
  EXPECT_THAT(Survivors(logits, {.temperature = 1, .min_p = 0.5}),
              ElementsAre(1, 2, 3));
  EXPECT_THAT(Survivors(logits, {.temperature = 1, .min_p = 1}),
              ElementsAre(1));
}

std::vector<float> ScoresOf(const Logits& logits, const TokenDraw& draw) {
  std::vector<float> scores;
  for (const auto& candidate : PlainCandidates(logits, draw)) {
    scores.push_back(candidate.score);
  }
  return scores;
}

TEST(PlainSampler, PenalisesWhatWasSeen) {
  TokenSet seen(3);
  seen.Insert(0);
  seen.Insert(2);
  const SamplingParameters parameters = {.temperature = 1,
                                         .repetition_penalty = 2};
  EXPECT_THAT(ScoresOf({4, 3, -1}, {.parameters = &parameters, .seen = &seen}),
              ElementsAre(2, 3, -2));
}

TEST(PlainSampler, PenalisesWhatWasGenerated) {
  const std::map<int32_t, int32_t> generated = {{0, 1}, {2, 4}};
  const SamplingParameters parameters = {
      .temperature = 1, .presence_penalty = 0.5, .frequency_penalty = 0.25};
  EXPECT_THAT(
      ScoresOf({4, 3, 2}, {.parameters = &parameters, .generated = &generated}),
      ElementsAre(3.25, 3, 0.5));
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

TEST(PlainSampler, MatchesTransformersLogitsProcessors) {
  std::ifstream file(SourceFile("tests/golden/tokenizers/sampler_cases.json"));
  const Json samples = Json::parse(file);
  EXPECT_GE(samples.size(), 60);
  for (const Json& sample : samples) {
    const auto logits = sample["logits"].get<std::vector<float>>();
    TokenSet seen(static_cast<int64_t>(logits.size()));
    for (int32_t id : sample["seen"]) seen.Insert(id);
    const SamplingParameters parameters = ParametersOf(sample);
    const auto candidates =
        PlainCandidates(logits, {.parameters = &parameters, .seen = &seen});
    double total = 0;
    for (const auto& candidate : candidates) total += candidate.mass;
    ASSERT_EQ(candidates.size(), sample["ids"].size()) << sample.dump();
    for (size_t i = 0; i < candidates.size(); ++i) {
      EXPECT_EQ(candidates[i].id, sample["ids"][i]) << sample.dump();
      EXPECT_NEAR(candidates[i].mass / total,
                  sample["probabilities"][i].get<double>(), 1e-6);
    }
  }
}

TEST(LogProbabilities, AreTheLogarithmOfTheSoftmax) {
  const Logits logits = Logarithms({.1, .4, .2, .3});
  EXPECT_NEAR(LogProbabilityOf(logits, 1), std::log(0.4), 1e-6);
  EXPECT_EQ(LogProbabilityOf(Logits{0, -kInfinity}, 1), -kInfinity);
  EXPECT_NEAR(LogProbabilityOf(Logits{3e38f, 3e38f}, 1), std::log(0.5), 1e-6);
}

TEST(LogProbabilities, ComeBestFirstTiesByLowestId) {
  const Logits logits = {0, 2, 1, 2, -kInfinity};
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

// Comparison with the logits that the official implementation of a family gives
// for a small model: the folders of tests/golden/<family>.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "model/checkpoint.h"
#include "model/load_model.h"
#include "model/model.h"
#include "tests/model/model_folder.h"
#include "tests/model/step.h"

namespace engram {

inline std::unique_ptr<Backend> TwoThreadBackend(
    const DeviceOptions& device = {}) {
  BackendOptions options;
  options.device = device;
  options.kind = BackendKind::kCpu;
  options.threads = 2;
  auto backend = MakeBackend(options);
  ENGRAM_CHECK_OK(backend.status());
  return std::move(*backend);
}

// expected.safetensors of a golden folder: the checkpoint reader wants it under
// the name of a model.
struct ExpectedLogits {
  std::vector<int32_t> tokens;
  std::vector<float> logits;
};

inline ExpectedLogits ReadExpectedLogits(const std::string& folder) {
  TemporaryFolder copy;
  std::filesystem::copy(folder + "/expected.safetensors",
                        copy.path() + "/model.safetensors");
  const auto checkpoint = Checkpoint::Open(copy.path());
  ENGRAM_CHECK_OK(checkpoint.status());
  ExpectedLogits expected;
  for (float id : WidenToFloat32((*checkpoint)->Get("tokens").value())) {
    expected.tokens.push_back(static_cast<int32_t>(id));
  }
  expected.logits = WidenToFloat32((*checkpoint)->Get("logits").value());
  return expected;
}

// The mean over tokens of what the distributions by `actual` diverge from those
// by `expected` (Kullback-Leibler, nats).
inline double MeanDivergence(const std::vector<float>& expected,
                             const std::vector<float>& actual, size_t tokens) {
  const size_t vocabulary = expected.size() / tokens;
  const auto log_sum = [&](const float* logits) {
    const double largest = *std::max_element(logits, logits + vocabulary);
    double sum = 0;
    for (size_t i = 0; i < vocabulary; ++i)
      sum += std::exp(logits[i] - largest);
    return largest + std::log(sum);
  };
  double divergence = 0;
  for (size_t token = 0; token < tokens; ++token) {
    const float* const p = expected.data() + token * vocabulary;
    const float* const q = actual.data() + token * vocabulary;
    const double p_sum = log_sum(p), q_sum = log_sum(q);
    for (size_t i = 0; i < vocabulary; ++i) {
      divergence += std::exp(p[i] - p_sum) * ((p[i] - p_sum) - (q[i] - q_sum));
    }
  }
  return divergence / static_cast<double>(tokens);
}

// Whether a golden folder's weights have 16 bits: CUDA's products round what
// they multiply by these, the expected logits don't.
inline bool RoundsActivations(const Backend& backend,
                              const std::string& folder) {
  return backend.name() == "cuda" && folder.ends_with("16");
}

// Runs the expected tokens through the model in `folder`, in one step.
inline void ExpectGoldenLogits(const std::string& folder) {
  const ExpectedLogits expected = ReadExpectedLogits(folder);
  const auto backend = TwoThreadBackend();
  ModelLimits limits;
  limits.slots = 1;
  limits.max_logits_rows = static_cast<int>(expected.tokens.size());
  auto model = LoadModel(folder, backend.get(), limits, 0);
  ASSERT_TRUE(model.ok()) << model.status();

  Batch batch;
  batch.rows.push_back(
      RowWith(LogitsWanted::kAll, (*model)->states().Take(), expected.tokens));
  const auto result = RunStep(model->get(), batch);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->finite[0]);
  ASSERT_EQ(result->logits.size(), expected.logits.size());
  double largest_difference = 0;
  double largest = 0;
  for (size_t i = 0; i < expected.logits.size(); ++i) {
    largest_difference = std::max<double>(
        largest_difference, std::fabs(result->logits[i] - expected.logits[i]));
    largest = std::max<double>(largest, std::fabs(expected.logits[i]));
  }
  if (RoundsActivations(*backend, folder)) {
    EXPECT_LE(
        MeanDivergence(expected.logits, result->logits, expected.tokens.size()),
        1e-6);
  } else {
    EXPECT_LE(largest_difference, 1e-3);
  }
  // Of logits that say something.
  EXPECT_GT(largest, 1);
  testing::Test::RecordProperty("largest_difference",
                                absl::StrCat(largest_difference));
}

}  // namespace engram

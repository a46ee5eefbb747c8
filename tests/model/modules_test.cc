// The parts that layers are made of, against plain sums.

#include "model/modules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "model/checkpoint.h"
#include "model/weight_loader.h"
#include "tests/model/golden_model.h"
#include "tests/model/model_folder.h"
#include "tests/support/reference_ops.h"
#include "tests/support/temporary_folder.h"

namespace engram {
namespace {

using ::testing::DoubleNear;
using ::testing::Pointwise;

constexpr int64_t kTokens = 3;
constexpr int64_t kWidth = 5;

std::vector<double> Values(const RawTensor& tensor) {
  std::vector<double> values;
  for (size_t i = 0; i < tensor.bytes.size(); i += sizeof(float)) {
    float value = 0;
    std::memcpy(&value, tensor.bytes.data() + i, sizeof(value));
    values.push_back(value);
  }
  return values;
}

class ModulesTest : public testing::Test {
 protected:
  // Loads what `load` does from these tensors.
  template <class Load>
  auto From(const std::map<std::string, RawTensor>& tensors, Load load) {
    folder_.Write("model.safetensors", SafetensorsFile(tensors));
    auto checkpoint = Checkpoint::Open(folder_.path());
    ENGRAM_CHECK_OK(checkpoint.status());
    WeightLoader loader("folder", checkpoint->get(), backend_.get(),
                        MatrixFormat());
    return load(&loader);
  }

  // Activations with these values.
  std::unique_ptr<Buffer> Upload(const std::vector<double>& values) {
    auto buffer = backend_->Allocate(values.size() * sizeof(float));
    ENGRAM_CHECK_OK(buffer.status());
    const std::vector<float> narrow(values.begin(), values.end());
    std::memcpy((*buffer)->data(), narrow.data(),
                narrow.size() * sizeof(float));
    return std::move(*buffer);
  }
  static std::vector<double> Download(const Buffer& buffer) {
    const size_t floats = buffer.bytes() / sizeof(float);
    return {buffer.floats(), buffer.floats() + floats};
  }

  const std::unique_ptr<Backend> backend_ = TwoThreadBackend();
  TemporaryFolder folder_;
  RandomTensors random_;
  const std::vector<double> x_ = Values(random_({kTokens, kWidth}, 0, 1));
};

TEST_F(ModulesTest, ALinearTakesTheBiasThatTheConfigurationOrTheFileHas) {
  const RawTensor weight = random_({4, kWidth}, 0, 1);
  const RawTensor bias = random_({4}, 0, 1);
  const auto load = [&](std::optional<bool> has_bias, bool is_there) {
    std::map<std::string, RawTensor> tensors = {{"a.weight", weight}};
    if (is_there) tensors["a.bias"] = bias;
    return From(tensors, [&](WeightLoader* loader) {
      return LoadLinear("a", 4, kWidth, has_bias, loader);
    });
  };
  const auto x = Upload(x_);
  for (const bool is_there : {false, true}) {
    const auto linear = load(std::nullopt, is_there);
    ASSERT_TRUE(linear.ok()) << linear.status();
    const std::vector<double> expected =
        reference::MatMul(4, kWidth, Values(weight), x_,
                          is_there ? Values(bias) : std::vector<double>());
    const auto y = Upload(std::vector<double>(kTokens * 4, 7.0));
    const LinearWeights weights = linear->weights();
    MatMulOptions options;
    options.bias = weights.bias;
    backend_->MatMul(*weights.weight, kTokens, {x->floats(), kWidth}, options,
                     {y->floats(), 4});
    EXPECT_THAT(Download(*y), Pointwise(DoubleNear(1e-5), expected));
  }
  EXPECT_EQ(load(true, false).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(load(false, true)->bias, nullptr);
}

TEST_F(ModulesTest, ANormIsOfTheKindOfTheConfiguration) {
  const RawTensor weight = random_({kWidth}, 1, 0.3f);
  const RawTensor bias = random_({kWidth}, 0, 1);
  ModelConfig config;
  config.d_model = kWidth;
  config.norm_epsilon = 0.1f;
  const auto normed_by = [&](NormKind kind) {
    config.norm = kind;
    const auto norm = From(
        {{"n.weight", weight}, {"n.bias", bias}},
        [&](WeightLoader* loader) { return LoadNorm("n", config, loader); });
    ENGRAM_CHECK_OK(norm.status());
    const auto x = Upload(x_), normed = Upload(x_);
    backend_->Norm(norm->weights(), kTokens, kWidth, x->floats(),
                   {normed->floats(), kWidth});
    return Download(*normed);
  };
  const auto expected = [&](bool is_layer_norm) {
    const std::vector<double> w = Values(weight), b = Values(bias);
    std::vector<double> normed;
    for (int64_t t = 0; t < kTokens; ++t) {
      double mean = 0, squares = 0;
      for (int64_t i = 0; i < kWidth; ++i) mean += x_[t * kWidth + i] / kWidth;
      if (!is_layer_norm) mean = 0;
      for (int64_t i = 0; i < kWidth; ++i) {
        squares += std::pow(x_[t * kWidth + i] - mean, 2) / kWidth;
      }
      for (int64_t i = 0; i < kWidth; ++i) {
        normed.push_back((x_[t * kWidth + i] - mean) /
                             std::sqrt(squares + 0.1) * w[i] +
                         (is_layer_norm ? b[i] : 0.0));
      }
    }
    return normed;
  };
  EXPECT_THAT(normed_by(NormKind::kRms),
              Pointwise(DoubleNear(1e-5), expected(false)));
  EXPECT_THAT(normed_by(NormKind::kLayer),
              Pointwise(DoubleNear(1e-5), expected(true)));
}

TEST_F(ModulesTest, AnMlpIsGatedOrHasGelu) {
  constexpr int64_t kHidden = 4;
  for (const MlpKind kind : {MlpKind::kGated, MlpKind::kGelu}) {
    const MlpConfig config = {kind, kHidden};
    const RawTensor fc1 = random_({config.hidden(), kWidth}, 0, 1);
    const RawTensor fc1_bias = random_({config.hidden()}, 0, 1);
    const RawTensor fc2 = random_({kWidth, kHidden}, 0, 1);
    const RawTensor fc2_bias = random_({kWidth}, 0, 1);
    const bool is_gated = kind == MlpKind::kGated;
    std::map<std::string, RawTensor> tensors = {{"mlp.fc1.weight", fc1},
                                                {"mlp.fc2.weight", fc2}};
    if (!is_gated) {
      tensors["mlp.fc1.bias"] = fc1_bias;
      tensors["mlp.fc2.bias"] = fc2_bias;
    }
    const auto mlp = From(tensors, [&](WeightLoader* loader) {
      return LoadMlp("mlp", config, kWidth, loader);
    });
    ASSERT_TRUE(mlp.ok()) << mlp.status();

    // A norm that leaves half of what it is given.
    std::vector<double> normed = x_;
    for (double& value : normed) value /= 2;
    std::vector<double> hidden =
        reference::MatMul(config.hidden(), kWidth, Values(fc1), normed,
                          is_gated ? std::vector<double>() : Values(fc1_bias),
                          is_gated ? Activation::kNone : Activation::kGeluTanh);
    if (is_gated) {
      std::vector<double> product;
      for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t i = 0; i < kHidden; ++i) {
          const double gate = hidden[t * 2 * kHidden + kHidden + i];
          product.push_back(hidden[t * 2 * kHidden + i] * gate /
                            (1 + std::exp(-gate)));
        }
      }
      hidden = product;
    }
    std::vector<double> expected =
        reference::MatMul(kWidth, kHidden, Values(fc2), hidden,
                          is_gated ? std::vector<double>() : Values(fc2_bias));
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += x_[i];

    // With so large an epsilon the values themselves do not matter.
    const auto weight = Upload(std::vector<double>(kWidth, 500.0));
    const NormWeights norm = {NormKind::kRms, weight->floats(), nullptr, 1e6f};
    const MlpBlockArguments block = mlp->Block(norm);
    ENGRAM_CHECK_OK(backend_->ReserveSteps(
        {.tokens = kTokens, .block_floats = block.ScratchFloats()}));
    const auto residual = Upload(x_);
    backend_->MlpBlock(backend_->PrepareStep({{0, 0, kTokens}}), block,
                       residual->floats());
    EXPECT_THAT(Download(*residual), Pointwise(DoubleNear(1e-4), expected));
  }
}

}  // namespace
}  // namespace engram

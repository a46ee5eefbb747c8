// What tests of blocks make their arguments of.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {

// What a block is made of and what it changes. Memory lives as long as this.
class BlockMemory {
 public:
  explicit BlockMemory(Backend* backend,
                       WeightFormat format = WeightFormat::kFloat32)
      : backend_(*backend), format_(format) {}

  const float* Values(int64_t count, float low = -1.0f, float high = 1.0f) {
    return Keep(RandomFloats(++seed_, count, low, high));
  }
  float* Zeros(int64_t count) { return Keep(Floats(count)); }
  Matrix NewMatrix(int64_t tokens, int64_t width) {
    // Those without tokens have places of their own, too.
    return {Zeros(std::max<int64_t>(tokens, 1) * width), width};
  }
  NormWeights Norm(NormKind kind, int64_t d_model) {
    return {kind, Values(d_model),
            kind == NormKind::kLayer ? Values(d_model) : nullptr, 1e-3f};
  }
  LinearWeights Linear(int64_t outputs, int64_t inputs, bool has_bias) {
    packed_.push_back(PackFloats(backend_,
                                 RandomFloats(++seed_, outputs * inputs),
                                 outputs, inputs, format_));
    return {packed_.back().get(), has_bias ? Values(outputs) : nullptr};
  }
  ConvolutionWeights Convolution(int64_t taps, int64_t channels,
                                 bool has_bias) {
    return {taps, Values(taps * channels),
            has_bias ? Values(channels) : nullptr};
  }
  DiagonalSsmWeights DiagonalSsm(int64_t pairs, int64_t channels) {
    return {pairs, Values(2 * pairs * channels, -0.7f, 0.7f),
            Values(2 * pairs * channels), Values(channels)};
  }

 private:
  float* Keep(const Floats& values) {
    floats_.push_back(std::make_unique<DeviceFloats>(backend_, values));
    return floats_.back()->data();
  }

  Backend& backend_;
  const WeightFormat format_;
  uint32_t seed_ = 100;
  std::vector<std::unique_ptr<DeviceFloats>> floats_;
  std::vector<std::unique_ptr<PackedWeight>> packed_;
};

}  // namespace engram

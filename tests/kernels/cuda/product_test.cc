// Products of the CUDA back end are, to the bit, sums in the order that
// kernels/cuda/README.md tells, whichever kernel computes them and whatever the
// number of tokens is.
//
// In a step of 16 inputs the order is the device's own; the emulation's is
// ascending over the places of fragments, or with ENGRAM_EMULATION_FUSED_MMA
// none: then it adds all of them at once.
#include "kernels/cuda/product.h"

#include <cuda_runtime.h>

#include <cmath>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/large_weights.h"
#include "kernels/status.h"
#include "kernels/weight_values.h"
#include "tests/kernels/kernel_test_case.h"

#if defined(ENGRAM_CUDA_EMULATION)
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/fused_sum.h"
#endif

namespace engram {
namespace {

using cuda::PackedMatrix;
using cuda::ProductOrder;

struct Shape {
  int64_t outputs;
  int64_t inputs;
};
// Around the edges of steps, units, warps and tiles; of both orders.
constexpr Shape kShapes[] = {{1, 1},    {7, 15},   {8, 16},   {9, 17},
                             {63, 65},  {64, 128}, {65, 256}, {70, 300},
                             {33, 511}, {24, 576}, {5, 1100}, {9, 4700}};
#if defined(ENGRAM_CUDA_EMULATION)
constexpr WeightFormat kKnownOrders[] = {
    WeightFormat::kFloat32, WeightFormat::kBFloat16, WeightFormat::kFloat16,
    WeightFormat::kInt8};
#else
// In which order it adds a step of 16 inputs is a device's own.
constexpr WeightFormat kKnownOrders[] = {WeightFormat::kFloat32};
#endif
constexpr WeightFormat kNarrowFormats[] = {
    WeightFormat::kBFloat16, WeightFormat::kFloat16, WeightFormat::kInt8};

// x as a product with weights of this format takes it.
float RoundedTo(WeightFormat format, float value) {
  switch (format) {
    case WeightFormat::kFloat32:
      return value;
    case WeightFormat::kBFloat16:
      return WidenBFloat16(NarrowToBFloat16(value));
    case WeightFormat::kFloat16:
    case WeightFormat::kInt8:
    case WeightFormat::kInt4:
      return WidenFloat16(NarrowToFloat16(value));
  }
  return value;
}

// A weight as its format keeps it, of kInt8 the integers.
struct Kept {
  Floats values;
  Floats scales;  // of kInt8, [outputs, units]
};

Kept KeptAs(WeightFormat format, const Floats& weight, const Shape& shape) {
  Kept kept;
  if (format == WeightFormat::kInt8) {
    const auto rows = QuantiseToInt8(
        {DataType::kFloat32, {shape.outputs, shape.inputs}, weight.data()}, 0,
        shape.outputs);
    ENGRAM_CHECK_OK(rows.status());
    kept.values.assign(rows->values.begin(), rows->values.end());
    kept.scales = rows->scales;
    return kept;
  }
  for (const float value : weight) {
    kept.values.push_back(RoundedTo(format, value));
  }
  return kept;
}

// One output of one token, with `at(k)` the factors of input k, which are 0
// behind the last. They are of float16 or else of bfloat16.
struct Factors {
  bool are_float16;
  std::function<std::pair<float, float>(int64_t k)> at;
};

float AddStep(bool are_float16, const float (&x)[16], const float (&weight)[16],
              float sum) {
#if defined(ENGRAM_CUDA_EMULATION)
  if (emulation::options().fused_mma) {
    return emulation::FusedSum(are_float16, x, weight, sum);
  }
#endif
  for (int i = 0; i < 16; ++i) sum = sum + x[i] * weight[i];
  return sum;
}

float SumOfSteps(const Factors& factors, int64_t first, int64_t end) {
  constexpr int kPlaces[16] = {0, 1, 4, 5, 8,  9,  12, 13,
                               2, 3, 6, 7, 10, 11, 14, 15};
  float sum = 0;
  for (int64_t step = first; step < end; step += 16) {
    float x[16], weight[16];
    for (int i = 0; i < 16; ++i) {
      std::tie(x[i], weight[i]) = factors.at(step + kPlaces[i]);
    }
    sum = AddStep(factors.are_float16, x, weight, sum);
  }
  return sum;
}

// Each unit with a scale, if there are `scales`, has a sum of its own.
float Chain(const Factors& factors, const float* scales, int64_t first,
            int64_t end) {
  if (scales == nullptr) return SumOfSteps(factors, first, end);
  float total = 0;
  for (int64_t k = first; k < end; k += 64) {
    total = std::fmaf(scales[k / 64],
                      SumOfSteps(factors, k, std::min(k + 64, end)), total);
  }
  return total;
}

// x of one term.
float NarrowSum(ProductOrder order, const Factors& factors, const float* scales,
                int64_t inputs) {
  const int64_t padded = (inputs + 15) / 16 * 16;
  if (order != ProductOrder::kSplit8) return Chain(factors, scales, 0, padded);
  const int64_t units = (padded + 63) / 64;
  float sum = 0;
  for (int64_t segment = 0; segment < 8; ++segment) {
    const int64_t first = segment * units / 8 * 64;
    const int64_t end = std::min((segment + 1) * units / 8 * 64, padded);
    sum = sum + Chain(factors, scales, first, end);
  }
  return sum;
}

float Float32Sum(const Factors& factors, int64_t inputs) {
  float lanes[32] = {};
  for (int64_t k = 0; k < inputs; ++k) {
    const auto [x, weight] = factors.at(k);
    float& lane = lanes[k / 4 % 32];
    lane = std::fmaf(x, weight, lane);
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    float sums[32];
    for (int i = 0; i < 32; ++i) sums[i] = lanes[i] + lanes[i ^ distance];
    std::copy_n(sums, 32, lanes);
  }
  return lanes[0];
}

class CudaProductTest : public ::testing::Test {
 protected:
  CudaProductTest() {
    auto made = MakeCudaBackend();
    ENGRAM_CHECK_OK(made.status());
    backend_ = *std::move(made);
    EXPECT_EQ(cudaStreamCreate(&stream_), cudaSuccess);
  }
  ~CudaProductTest() override { (void)cudaStreamDestroy(stream_); }

  Backend& backend() { return *backend_; }

  using Kernel = cudaError_t (*)(cudaStream_t, const cuda::ProductArguments&);
  // x [tokens, inputs] by `kernel`.
  Floats Run(Kernel kernel, const PackedWeight& weight, const Floats& x) {
    const int64_t tokens = static_cast<int64_t>(x.size()) / weight.inputs();
    DeviceFloats device_x(backend(), x);
    DeviceFloats y(backend(), Floats(tokens * weight.outputs(), -1.0f));
    EXPECT_TRUE(backend().Synchronize().ok());
    EXPECT_EQ(
        kernel(stream_, cuda::ArgumentsOf(cuda::ViewOf(weight), tokens,
                                          {device_x.data(), weight.inputs()},
                                          {}, {y.data(), weight.outputs()})),
        cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return y.ToHost();
  }

 private:
  std::unique_ptr<Backend> backend_;
  cudaStream_t stream_ = nullptr;
};

Floats Expected(const Shape& shape, WeightFormat format, const Floats& weight,
                const Floats& x) {
  const auto [outputs, inputs] = shape;
  const int64_t tokens = static_cast<int64_t>(x.size()) / inputs;
  const ProductOrder order = cuda::OrderOf(outputs, inputs);
  const Kept kept = KeptAs(format, weight, shape);
  Floats y;
  for (int64_t token = 0; token < tokens; ++token) {
    for (int64_t output = 0; output < outputs; ++output) {
      const auto factors = [&, inputs = inputs](bool rest) {
        const auto at = [&, inputs, rest](int64_t k) {
          if (k >= inputs) return std::pair(0.0f, 0.0f);
          const float value = x[token * inputs + k];
          const float nearest = RoundedTo(format, value);
          return std::pair(rest ? RoundedTo(format, value - nearest) : nearest,
                           kept.values[output * inputs + k]);
        };
        return Factors{format != WeightFormat::kBFloat16, at};
      };
      if (format == WeightFormat::kFloat32) {
        y.push_back(Float32Sum(factors(false), inputs));
        continue;
      }
      const float* const scales =
          kept.scales.empty() ? nullptr
                              : kept.scales.data() + output * Int8Units(inputs);
      y.push_back(NarrowSum(order, factors(false), scales, inputs));
      if (order == ProductOrder::kTwoTerms) {
        y.back() = y.back() + NarrowSum(order, factors(true), scales, inputs);
      }
    }
  }
  return y;
}

TEST_F(CudaProductTest, OrdersAreChosenByTheShapeAlone) {
  EXPECT_EQ(cuda::OrderOf(1 << 16, 256), ProductOrder::kTwoTerms);
  EXPECT_EQ(cuda::OrderOf(1, 257), ProductOrder::kSplit8);
  EXPECT_EQ(cuda::OrderOf(10000, 999), ProductOrder::kSplit8);
  EXPECT_EQ(cuda::OrderOf(10000, 1000), ProductOrder::kPlain);
}

TEST_F(CudaProductTest, EveryFormatIsSummedInItsOrder) {
  for (const Shape& shape : kShapes) {
    for (const WeightFormat format : kKnownOrders) {
      SCOPED_TRACE(testing::Message()
                   << WeightFormatName(format) << " " << shape.outputs << " x "
                   << shape.inputs);
      const Floats weight = RandomFloats(1, shape.outputs * shape.inputs);
      const auto packed =
          PackFloats(backend(), weight, shape.outputs, shape.inputs, format);
      for (const int64_t tokens : {1, 5, 17}) {
        const Floats x = RandomFloats(2, tokens * shape.inputs);
        ExpectSameBits(Run(&cuda::Product, *packed, x),
                       Expected(shape, format, weight, x));
      }
    }
  }
}

TEST_F(CudaProductTest, TheNarrowKernelAndTheTilesGiveTheSameBits) {
  for (const Shape& shape : kShapes) {
    for (const WeightFormat format : kNarrowFormats) {
      SCOPED_TRACE(testing::Message()
                   << WeightFormatName(format) << " " << shape.outputs << " x "
                   << shape.inputs);
      const auto packed =
          PackFloats(backend(), RandomFloats(1, shape.outputs * shape.inputs),
                     shape.outputs, shape.inputs, format);
      for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 18}) {
        const Floats x = RandomFloats(tokens, tokens * shape.inputs);
        ExpectSameBits(Run(&cuda::NarrowProduct, *packed, x),
                       Run(&cuda::TileProduct, *packed, x));
      }
    }
  }
}

TEST_F(CudaProductTest, LargeWeightsAreOneSumOfAnyNumberOfUnits) {
  const int64_t before = SetLargeWeightBytesForTest(1);
  for (const Shape& shape : {Shape{9, 300}, Shape{20, 2340}}) {
    EXPECT_EQ(cuda::OrderOf(shape.outputs, shape.inputs), ProductOrder::kPlain);
    for (const WeightFormat format : kNarrowFormats) {
      SCOPED_TRACE(testing::Message()
                   << WeightFormatName(format) << " " << shape.outputs << " x "
                   << shape.inputs);
      const auto packed =
          PackFloats(backend(), RandomFloats(1, shape.outputs * shape.inputs),
                     shape.outputs, shape.inputs, format);
      for (const int64_t tokens : {1, 3, 8}) {
        const Floats x = RandomFloats(2, tokens * shape.inputs);
        ExpectSameBits(Run(&cuda::NarrowProduct, *packed, x),
                       Run(&cuda::TileProduct, *packed, x));
      }
    }
  }
  SetLargeWeightBytesForTest(before);
}

template <cuda::TileSize kSize>
cudaError_t ProductByTiles(cudaStream_t stream,
                           const cuda::ProductArguments& product) {
  return cuda::TileProduct(stream, kSize, product);
}

TEST_F(CudaProductTest, TilesOfEverySizeGiveTheSameBits) {
  constexpr int64_t kTokens = 130;
  // Of whole fours of inputs and not.
  for (const Shape& shape : {Shape{67, 100}, Shape{130, 588}, Shape{64, 590}}) {
    for (const WeightFormat format : kNarrowFormats) {
      SCOPED_TRACE(testing::Message()
                   << WeightFormatName(format) << " " << shape.outputs << " x "
                   << shape.inputs);
      const auto packed =
          PackFloats(backend(), RandomFloats(1, shape.outputs * shape.inputs),
                     shape.outputs, shape.inputs, format);
      const Floats x = RandomFloats(2, kTokens * shape.inputs);
      const Floats expected =
          Run(&ProductByTiles<cuda::TileSize::k16>, *packed, x);
      for (const Kernel kernel : {&ProductByTiles<cuda::TileSize::k16OfFew>,
                                  &ProductByTiles<cuda::TileSize::k32OfFew>,
                                  &ProductByTiles<cuda::TileSize::k32>,
                                  &ProductByTiles<cuda::TileSize::k64>,
                                  &ProductByTiles<cuda::TileSize::kLarge>}) {
        ExpectSameBits(Run(kernel, *packed, x), expected);
      }
    }
  }
}

TEST_F(CudaProductTest, TilesAreLargeWhereThereAreEnoughAndSmallWhereFew) {
  const auto size = [](int64_t outputs, int64_t inputs, int64_t tokens) {
    cuda::WeightView weight = {};
    weight.outputs = outputs;
    weight.inputs = inputs;
    return cuda::TileSizeOf(weight, tokens);
  };
  using cuda::TileSize;
  EXPECT_EQ(size(10240, 2560, 9), TileSize::k16);
  EXPECT_EQ(size(10240, 2560, 17), TileSize::k32);
  EXPECT_EQ(size(10240, 2560, 33), TileSize::k64);
  EXPECT_EQ(size(10240, 2560, 65), TileSize::kLarge);
  EXPECT_EQ(size(10240, 2560, 256), TileSize::kLarge);
  EXPECT_EQ(size(3072, 768, 2048), TileSize::kLarge);
  EXPECT_EQ(size(192, 5120, 2048), TileSize::k64);
  // A multiprocessor for each 32 outputs, of which tiles of 64 leave most idle.
  EXPECT_EQ(size(2560, 5120, 9), TileSize::k16OfFew);
  EXPECT_EQ(size(2560, 5120, 32), TileSize::k32OfFew);
  EXPECT_EQ(size(768, 1536, 32), TileSize::k16OfFew);
  // A token is two rows.
  EXPECT_EQ(size(5120, 160, 9), TileSize::k32);
}

TEST_F(CudaProductTest, MoreTokensAreNarrowWhereTilesOfTheirOutputsAreFew) {
  const auto most = [](int64_t outputs, int64_t inputs, int parts = 1) {
    cuda::WeightView weight = {};
    weight.outputs = outputs;
    weight.inputs = inputs;
    weight.stride = inputs;
    return cuda::NarrowTokens(weight, parts);
  };
  // x_proj of small and large models, out_proj of a small one.
  EXPECT_EQ(most(80, 1536), 208);
  EXPECT_EQ(most(192, 5120), 88);
  EXPECT_EQ(most(768, 1536), 16);
  EXPECT_EQ(most(768, 768, 3), 8);
  // One chain or few inputs, where tiles have as many chains.
  EXPECT_EQ(most(2560, 5120), 8);
  EXPECT_EQ(most(5120, 160), 8);
}

TEST_F(CudaProductTest, ATokenHasTheSameBitsAmongAnyNumberOfOthers) {
  constexpr int64_t kTokens = 130;
  for (const Shape& shape : {Shape{19, 100}, Shape{72, 330}}) {
    for (const WeightFormat format :
         {WeightFormat::kFloat32, WeightFormat::kBFloat16,
          WeightFormat::kInt8}) {
      const auto packed =
          PackFloats(backend(), RandomFloats(1, shape.outputs * shape.inputs),
                     shape.outputs, shape.inputs, format);
      const Floats x = RandomFloats(2, kTokens * shape.inputs);
      const Floats all = Run(&cuda::Product, *packed, x);
      for (int64_t tokens = 1; tokens < kTokens; ++tokens) {
        // Few, and around tiles.
        if (tokens > 34 && tokens % 64 > 2 && tokens % 64 < 63) continue;
        // The last ones, so that a token's place in a tile changes too.
        const int64_t first = kTokens - tokens;
        ExpectSameBits(
            Run(&cuda::Product, *packed, Slice(x, first, tokens, shape.inputs)),
            Slice(all, first, tokens, shape.outputs));
      }
    }
  }
}

TEST_F(CudaProductTest, InfinityStaysWhatItIsAndLargeNumbersAreTheLargest) {
  const float infinity = std::numeric_limits<float>::infinity();
  // Of two terms, of one, and of one again.
  for (const int64_t inputs : {1, 257}) {
    Floats weight(inputs);
    weight[0] = 1;
    const auto packed =
        PackFloats(backend(), weight, 1, inputs, WeightFormat::kFloat16);
    const float largest = inputs == 1 ? 2 * 65504.0f : 65504.0f;
    for (const auto& [value, expected] :
         std::vector<std::pair<float, float>>{{infinity, infinity},
                                              {-infinity, -infinity},
                                              {1e6f, largest},
                                              {-1e6f, -largest}}) {
      Floats x(inputs);
      x[0] = value;
      ExpectSameBits(Run(&cuda::Product, *packed, x), {expected});
    }
  }
}

}  // namespace
}  // namespace engram

// Products of many tokens have the bits of TileProduct whether cuBLASLt
// computes them or not: it is let do so with what has proved that it can.
#include "kernels/cuda/large_products.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/step_table.h"
#include "kernels/large_weights.h"
#include "kernels/status.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/device_facts/device_array.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

using emulation::Algorithm;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int64_t kOutputs = 24, kInputs = 280, kTokensMax = 2100;

class LargeProductsTest : public ::testing::Test {
 protected:
  LargeProductsTest() : large_bytes_(SetLargeWeightBytesForTest(1)) {
    MakeBackend();
  }
  ~LargeProductsTest() override {
    SetLargeWeightBytesForTest(large_bytes_);
    emulation::options() = options_;
    emulation::algorithms() = algorithms_;
  }

  // Of the back end that is made first, whose device then is known.
  void MakeBackend() {
    backend_ = nullptr;
    auto made = MakeCudaBackend();
    ENGRAM_CHECK_OK(made.status());
    backend_ = *std::move(made);
  }
  Backend& backend() { return *backend_; }
  void Offer(std::vector<Algorithm> algorithms) {
    emulation::algorithms() = std::move(algorithms);
  }

  std::unique_ptr<PackedWeight> Pack(
      WeightFormat format = WeightFormat::kBFloat16, int64_t inputs = kInputs) {
    auto packed = PackFloats(backend(), RandomFloats(1, kOutputs * inputs),
                             kOutputs, inputs, format);
    ENGRAM_CHECK_OK(
        backend().ReserveSteps({.tokens = kTokensMax, .block_floats = 1}));
    return packed;
  }

  // y, which is `before` where it is added to, of a step of so many tokens.
  Floats MatMul(const PackedWeight& weight, const Floats& x,
                const MatMulOptions& options, const Floats& before) {
    DeviceFloats device_x(backend(), x);
    DeviceFloats y(backend(), before);
    backend().MatMul(weight, static_cast<int64_t>(x.size()) / weight.inputs(),
                     {device_x.data(), weight.inputs()}, options,
                     {y.data(), weight.outputs()});
    return y.ToHost();
  }
  // The same by TileProduct.
  Floats ByTile(const PackedWeight& weight, const Floats& x,
                const MatMulOptions& options, const Floats& before) {
    DeviceFloats device_x(backend(), x);
    DeviceFloats y(backend(), before);
    ENGRAM_CHECK_OK(backend().Synchronize());
    EXPECT_EQ(cuda::TileProduct(
                  nullptr, cuda::ArgumentsOf(
                               cuda::ViewOf(weight),
                               static_cast<int64_t>(x.size()) / weight.inputs(),
                               {device_x.data(), weight.inputs()}, options,
                               {y.data(), weight.outputs()})),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
    return y.ToHost();
  }
  void ExpectBitsOfTile(const PackedWeight& weight, int64_t tokens) {
    const Floats x = RandomFloats(2, tokens * weight.inputs());
    const Floats before(tokens * weight.outputs(), -1.0f);
    ExpectSameBits(MatMul(weight, x, {}, before),
                   ByTile(weight, x, {}, before));
  }

  std::vector<ProductLibrary::Choice> Choices() {
    const auto library = backend().product_library();
    ENGRAM_CHECK(library.has_value());
    return library->choices;
  }
  // Of each choice: how many algorithms were tried, negative if none was found.
  std::vector<int> Tried() {
    std::vector<int> tried;
    for (const ProductLibrary::Choice& choice : Choices()) {
      tried.push_back(choice.found ? choice.tried : -choice.tried);
    }
    return tried;
  }

 private:
  const int64_t large_bytes_;
  const emulation::Options options_ = emulation::options();
  const std::vector<Algorithm> algorithms_ = emulation::algorithms();
  std::unique_ptr<Backend> backend_;
};

TEST(CublasLtTest, WhatIsMissingOfALibraryIsTold) {
  EXPECT_THAT(
      std::string(cuda::OpenCublasLt("libengram-none.so").status().message()),
      HasSubstr("libengram-none.so"));
  const absl::Status other = cuda::OpenCublasLt("libm.so.6").status();
  EXPECT_EQ(other.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(other.message(), "libm.so.6 has no cublasLtGetVersion");
}

// NVIDIA's own, without a device, where it is installed.
TEST(CublasLtTest, TheLibraryHasAllFunctions) {
  const auto library = cuda::OpenCublasLt("libcublasLt.so.13");
  if (library.ok()) {
    EXPECT_THAT(library->Name(), StartsWith("cuBLASLt 13."));
  } else {
    EXPECT_THAT(std::string(library.status().message()),
                ::testing::Not(HasSubstr("has no")));
  }
}

TEST_F(LargeProductsTest, TheFirstAlgorithmIsPinnedThatHasAllBits) {
  const int64_t split = emulation::runs(Algorithm::kSplit);
  const int64_t aligned = emulation::runs(Algorithm::kNeedsAligned);
  const auto weight = Pack();
  EXPECT_EQ(backend().product_library()->name, "cuBLASLt 13.1.0");
  // One that splits inside, one that refuses, one that adds in another order:
  // to write with it is right.
  EXPECT_EQ(Tried(), (std::vector<int>{3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4}));
  EXPECT_EQ(emulation::runs(Algorithm::kSplit), split);
  EXPECT_EQ(emulation::runs(Algorithm::kNeedsAligned), aligned);
  const std::vector<ProductLibrary::Choice> choices = Choices();
  EXPECT_EQ(choices.front().outputs, kOutputs);
  EXPECT_EQ(choices.front().inputs, kInputs);
  EXPECT_EQ(choices.front().format, WeightFormat::kBFloat16);
  EXPECT_EQ(choices.front().tokens, 64);
  EXPECT_FALSE(choices.front().accumulates);
  EXPECT_EQ(choices.back().tokens, 2048);
  EXPECT_TRUE(choices.back().accumulates);
}

TEST_F(LargeProductsTest, EveryNumberOfTokensHasTheBitsOfTile) {
  const Floats bias = RandomFloats(4, kOutputs);
  DeviceFloats device_bias(backend(), bias);
  std::vector<MatMulOptions> all(6);
  all[1].bias = device_bias.data();
  all[2].bias = device_bias.data();
  all[2].activation = Activation::kGelu;
  all[3].accumulate = true;
  all[4].bias = device_bias.data();
  all[4].accumulate = true;
  all[5].activation = Activation::kSilu;
  for (const WeightFormat format :
       {WeightFormat::kBFloat16, WeightFormat::kFloat16}) {
    const auto weight = Pack(format);
    Floats x = RandomFloats(2, kTokensMax * kInputs);
    x[3] = 1e6f;  // float16 has nothing so large
    const Floats before = RandomFloats(3, kTokensMax * kOutputs);
    for (const MatMulOptions& options : all) {
      const Floats expected = ByTile(*weight, x, options, before);
      for (const int64_t tokens : {63, 64, 127, 300, 513, 1025, 2100}) {
        SCOPED_TRACE(tokens);
        const int64_t runs = emulation::runs(Algorithm::kPlain) +
                             emulation::runs(Algorithm::kAddsFirst);
        ExpectSameBits(MatMul(*weight, Slice(x, 0, tokens, kInputs), options,
                              Slice(before, 0, tokens, kOutputs)),
                       Slice(expected, 0, tokens, kOutputs));
        EXPECT_EQ(emulation::runs(Algorithm::kPlain) +
                      emulation::runs(Algorithm::kAddsFirst) - runs,
                  tokens >= 64 ? 1 : 0);
      }
    }
  }
}

TEST_F(LargeProductsTest, WithoutAnEqualAlgorithmTilesComputeAll) {
  Offer({Algorithm::kSplitsInside, Algorithm::kRefuses});
  const auto weight = Pack();
  EXPECT_EQ(Tried(), std::vector<int>(12, -2));
  const int64_t runs = emulation::runs(Algorithm::kSplitsInside);
  ExpectBitsOfTile(*weight, 300);
  EXPECT_EQ(emulation::runs(Algorithm::kSplitsInside), runs);
}

// A sum that is added to y in another order can be added by us.
TEST_F(LargeProductsTest, WhereOnlyWritingIsEqualWhatIsAddedIsAddedBehindIt) {
  Offer({Algorithm::kAddsFirst});
  const auto weight = Pack();
  EXPECT_EQ(Tried(),
            (std::vector<int>{1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1}));
  MatMulOptions options;
  options.accumulate = true;
  const Floats x = RandomFloats(2, 260 * kInputs);
  const Floats before = RandomFloats(3, 260 * kOutputs);
  const int64_t runs = emulation::runs(Algorithm::kAddsFirst);
  ExpectSameBits(MatMul(*weight, x, options, before),
                 ByTile(*weight, x, options, before));
  EXPECT_EQ(emulation::runs(Algorithm::kAddsFirst), runs + 1);
}

// Of rows with a token each, as decode has them.
TEST_F(LargeProductsTest, ColumnsAreConvolvedBehindTheLibraryAsByTiles) {
  constexpr int64_t kRows = 70, kFirst = 4, kChannels = 14, kTaps = 4;
  const auto weight = Pack();
  std::vector<cuda::StepRow> rows(kRows);
  std::vector<int32_t> row_of_token(kRows);
  for (int32_t i = 0; i < kRows; ++i) {
    rows[i].slot_in = rows[i].slot_out = i;
    rows[i].tokens = 1;
    rows[i].offset = row_of_token[i] = i;
  }
  // Without a token, its state moves on.
  rows[9].tokens = 0;
  rows[9].slot_out = 70;
  const DeviceArray<cuda::StepRow> device_rows(rows);
  const DeviceArray<int32_t> device_row_of_token(row_of_token);
  DeviceFloats x(backend(), RandomFloats(2, kRows * kInputs));
  DeviceFloats taps(backend(), RandomFloats(5, kTaps * kChannels));
  const Floats before = RandomFloats(6, (kRows + 1) * (kTaps - 1) * kChannels);
  ENGRAM_CHECK_OK(backend().Synchronize());
  const auto run = [&](const auto& begin, Floats* state_after) {
    DeviceFloats state(backend(), before);
    DeviceFloats y(backend(), Floats(kRows * kOutputs, -1.0f));
    ENGRAM_CHECK_OK(backend().Synchronize());
    cuda::ProductArguments product =
        cuda::ArgumentsOf(cuda::ViewOf(*weight), kRows, {x.data(), kInputs}, {},
                          {y.data(), kOutputs});
    product.convolution.step.rows = device_rows.data();
    product.convolution.step.row_of_token = device_row_of_token.data();
    product.convolution.first = kFirst;
    product.convolution.channels = kChannels;
    product.convolution.taps = kTaps;
    product.convolution.weight = taps.data();
    product.convolution.activation = Activation::kSilu;
    product.convolution.state = {state.data(), (kTaps - 1) * kChannels};
    product.convolution.by_pairs = true;
    EXPECT_EQ(begin(product), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
    *state_after = state.ToHost();
    return y.ToHost();
  };
  cuda::LargeProducts products(0);
  ENGRAM_CHECK_OK(products.Learn(cuda::ViewOf(*Pack()), nullptr));
  auto room = backend().Allocate(products.RoomFor(kRows));
  ENGRAM_CHECK_OK(room.status());
  products.SetRoom(*std::move(room));
  const int64_t runs = emulation::runs(Algorithm::kAddsFirst);
  Floats state, expected_state;
  const Floats y = run(
      [&](const cuda::ProductArguments& product) {
        return products.Begin(nullptr, product);
      },
      &state);
  EXPECT_EQ(emulation::runs(Algorithm::kAddsFirst), runs + 1);
  const Floats expected = run(
      [](const cuda::ProductArguments& product) {
        return cuda::TileProduct(nullptr, product);
      },
      &expected_state);
  // Nothing reads what stands for a token that is not there.
  const auto without_row_9 = [](Floats values) {
    std::fill_n(values.begin() + 9 * kOutputs, kOutputs, 0.0f);
    return values;
  };
  ExpectSameBits(without_row_9(y), without_row_9(expected));
  ExpectSameBits(state, expected_state);
}

TEST_F(LargeProductsTest, WhatTheLibraryRefusesLaterTilesCompute) {
  Offer({Algorithm::kRefusesMany});
  const auto weight = Pack();
  EXPECT_EQ(Tried(), std::vector<int>(12, 1)) << "of trials, which are small";
  const int64_t runs = emulation::runs(Algorithm::kRefusesMany);
  ExpectBitsOfTile(*weight, 300);
  EXPECT_EQ(emulation::runs(Algorithm::kRefusesMany), runs + 1);
}

TEST_F(LargeProductsTest, ASumThatCannotBeStoredByFoursIsComputedByTiles) {
  const auto weight = Pack();
  constexpr int64_t kTokens = 256, kStride = kOutputs + 1;
  DeviceFloats x(backend(), RandomFloats(2, kTokens * kInputs));
  DeviceFloats y(backend(), Floats(kTokens * kStride, -1.0f));
  const int64_t runs = emulation::runs(Algorithm::kAddsFirst);
  backend().MatMul(*weight, kTokens, {x.data(), kInputs}, {},
                   {y.data(), kStride});
  ENGRAM_CHECK_OK(backend().Synchronize());
  EXPECT_EQ(emulation::runs(Algorithm::kAddsFirst), runs);
}

// Any order gives the sums of nothing but zeros.
TEST_F(LargeProductsTest, TrialsAreOfTheirOwnNumbersAndNotOfTheWeights) {
  Offer({Algorithm::kSplitsInside, Algorithm::kPlain});
  const auto zeros = PackFloats(backend(), Floats(kOutputs * kInputs), kOutputs,
                                kInputs, WeightFormat::kBFloat16);
  EXPECT_EQ(Tried(), std::vector<int>(12, 2));
  const Floats x = RandomFloats(2, 9 * kInputs);
  ExpectSameBits(MatMul(*zeros, x, {}, Floats(9 * kOutputs, -1.0f)),
                 Floats(9 * kOutputs));
}

TEST_F(LargeProductsTest, AShapeIsTriedOnceOnADevice) {
  const auto weight = Pack();
  const std::vector<int> tried = Tried();
  const int64_t runs = emulation::runs(Algorithm::kSplitsInside);
  auto other = MakeCudaBackend();
  ENGRAM_CHECK_OK(other.status());
  Pack();
  PackFloats(**other, RandomFloats(1, kOutputs * kInputs), kOutputs, kInputs,
             WeightFormat::kBFloat16);
  EXPECT_EQ(emulation::runs(Algorithm::kSplitsInside), runs);
  EXPECT_EQ((*other)->product_library()->choices.size(), tried.size());
  Pack(WeightFormat::kFloat16);
  EXPECT_GT(emulation::runs(Algorithm::kSplitsInside), runs);
}

TEST_F(LargeProductsTest, OnlyWeightsOf16BitsAndOnePlainSumAreTried) {
  Pack(WeightFormat::kFloat32);
  Pack(WeightFormat::kInt8);
  Pack(WeightFormat::kBFloat16, 256);
  SetLargeWeightBytesForTest(kOutputs * kInputs * 2 + 1);
  Pack(WeightFormat::kBFloat16);
  EXPECT_THAT(Tried(), ::testing::IsEmpty());
}

TEST_F(LargeProductsTest, WithoutTheLibraryTilesComputeAllAndWhyIsTold) {
  emulation::options().cublaslt = false;
  MakeBackend();
  const auto weight = Pack();
  const auto told = backend().product_library();
  ASSERT_TRUE(told.has_value());
  EXPECT_EQ(told->name, "");
  EXPECT_THAT(told->absence, HasSubstr("has no cublasLt"));
  ExpectBitsOfTile(*weight, 300);
}

TEST_F(LargeProductsTest, WithoutRoomForItsInputsTilesComputeAProduct) {
  const auto weight = PackFloats(backend(), RandomFloats(1, kOutputs * kInputs),
                                 kOutputs, kInputs, WeightFormat::kBFloat16);
  ENGRAM_CHECK_OK(backend().ReserveSteps({.tokens = 256, .block_floats = 1}));
  const int64_t runs = emulation::runs(Algorithm::kAddsFirst);
  ExpectBitsOfTile(*weight, 400);
  EXPECT_EQ(emulation::runs(Algorithm::kAddsFirst), runs);
  ExpectBitsOfTile(*weight, 256);
  EXPECT_EQ(emulation::runs(Algorithm::kAddsFirst), runs + 1);
}

}  // namespace
}  // namespace engram

// The contract of Backend, for every back end that this build has. The CPU back
// end runs it once per instruction set that this machine has.
#include "kernels/backend.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "kernels/status.h"
#include "kernels/weight_values.h"
#include "tests/kernels/backend_under_test.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

using BackendTest = BackendUnderTestSuite;
using CpuBackendTest = BackendUnderTestSuite;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// --- Memory.

TEST_P(BackendTest, AllocatesZeroedAlignedMemory) {
  for (const size_t bytes : {size_t{0}, size_t{4}, size_t{1000}}) {
    auto buffer = backend().Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ((*buffer)->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data()) % 64, 0u);
    std::vector<char> host(bytes, 1);
    ASSERT_TRUE(
        backend().CopyToHost(host.data(), (*buffer)->data(), bytes).ok());
    EXPECT_THAT(host, Each(0));
  }
}

TEST_P(BackendTest, RefusesMemoryThatTheMachineDoesNotHave) {
  const size_t bytes = size_t{1} << 60;
  const auto buffer = backend().Allocate(bytes);
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(buffer.status().message()),
              HasSubstr(std::to_string(bytes)));
}

TEST_P(BackendTest, CopiesAndZeroes) {
  DeviceFloats a(backend(), {1, 2, 3});
  DeviceFloats b(backend(), {4, 5, 6});
  EXPECT_TRUE(backend().Copy(b.data(), a.data() + 1, 2 * sizeof(float)).ok());
  EXPECT_TRUE(backend().Zero(a.data(), sizeof(float)).ok());
  EXPECT_THAT(a.ToHost(), ElementsAre(0, 2, 3));
  EXPECT_THAT(b.ToHost(), ElementsAre(2, 3, 6));
}

TEST_P(BackendTest, CopiesWhileOtherThingsGoOn) {
  const size_t bytes = 3 * sizeof(float);
  auto host = backend().AllocateHost(bytes);
  ASSERT_TRUE(host.ok());
  EXPECT_EQ((*host)->bytes(), bytes);
  DeviceFloats a(backend(), {1, 2, 3});
  auto read = backend().BeginCopyToHost((*host)->data(), a.data(), bytes);
  ASSERT_TRUE(read.ok());
  ASSERT_TRUE((*read)->Wait().ok());
  EXPECT_TRUE((*read)->Reached());
  EXPECT_THAT(Floats((*host)->floats(), (*host)->floats() + 3),
              ElementsAre(1, 2, 3));
  (*host)->floats()[1] = 7;
  // The event of a copy is that of those before it.
  DeviceFloats b(backend(), {0, 0, 0, 0});
  auto first = backend().BeginCopyFromHost(b.data(), (*host)->data(), bytes);
  auto second = backend().BeginCopyFromHost(b.data() + 3, (*host)->floats() + 1,
                                            sizeof(float));
  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_TRUE((*second)->Wait().ok());
  EXPECT_TRUE((*first)->Reached());
  EXPECT_THAT(b.ToHost(), ElementsAre(1, 7, 3, 7));
}

TEST_P(BackendTest, PacksOnlyMatrices) {
  const Floats values(4);
  const Tensor tensor{DataType::kFloat32, {4}, values.data()};
  EXPECT_EQ(backend().Pack(tensor, WeightFormat::kFloat32).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// --- Embed, AddPositions, CopyRows, KeepLastTokens, FiniteRows.

TEST_P(BackendTest, EmbedsRowsOfThePackedTable) {
  for (const int64_t d_model : {1, 16, 33}) {
    const int64_t vocab = 70;
    const Floats table = RandomFloats(1, vocab * d_model);
    const auto packed = PackFloats(backend(), table, vocab, d_model);
    const std::vector<int32_t> ids = {69, 0, 31, 32, 31};
    DeviceFloats residual(backend(), Floats(ids.size() * d_model));
    backend().Embed(PrepareIds(backend(), ids), *packed, residual.data());
    Floats expected;
    for (const int32_t id : ids) {
      const Floats row = Slice(table, id, 1, d_model);
      expected.insert(expected.end(), row.begin(), row.end());
    }
    ExpectSameBits(residual.ToHost(), expected);
  }
}

TEST_P(BackendTest, PacksBFloat16AndFloat16Exactly) {
  // 1, -2 and 0.5 in both formats.
  const std::vector<uint16_t> bfloat16 = {0x3f80, 0xc000, 0x3f00};
  const std::vector<uint16_t> float16 = {0x3c00, 0xc000, 0x3800};
  for (const Tensor& tensor :
       {Tensor{DataType::kBFloat16, {1, 3}, bfloat16.data()},
        Tensor{DataType::kFloat16, {1, 3}, float16.data()}}) {
    auto packed = backend().Pack(tensor, WeightFormat::kFloat32);
    ASSERT_TRUE(packed.ok());
    EXPECT_EQ((*packed)->outputs(), 1);
    EXPECT_EQ((*packed)->inputs(), 3);
    DeviceFloats row(backend(), Floats(3));
    backend().Embed(PrepareIds(backend(), {0}), **packed, row.data());
    EXPECT_THAT(row.ToHost(), ElementsAre(1.0f, -2.0f, 0.5f));
  }
}

// What 64 inputs of an output become, or fewer, in int8.
void RoundUnitToInt8(absl::Span<float> unit) {
  float largest = 0;
  for (const float value : unit) largest = std::max(largest, std::abs(value));
  const float scale = largest / 127.0f;
  for (float& value : unit) {
    value = scale == 0 ? 0 : (std::nearbyint(value / scale) + 0.0f) * scale;
  }
}

Floats RoundedToInt4(const Floats& values, int64_t inputs) {
  const auto rows = static_cast<int64_t>(values.size()) / inputs;
  const auto quantised = QuantiseToInt4(
      {DataType::kFloat32, {rows, inputs}, values.data()}, 0, rows);
  ENGRAM_CHECK_OK(quantised.status());
  Floats rounded;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < inputs; ++k) {
      const int64_t group = row * ((inputs + 31) / 32) + k / 32;
      rounded.push_back(WidenInt4(quantised->values[row * inputs + k],
                                  quantised->scales[group],
                                  quantised->minimums[group]));
    }
  }
  return rounded;
}

// The weights as a format keeps them.
Floats Rounded(Floats values, int64_t inputs, WeightFormat format) {
  if (format == WeightFormat::kInt4) return RoundedToInt4(values, inputs);
  if (format == WeightFormat::kInt8) {
    for (size_t row = 0; row < values.size(); row += inputs) {
      for (int64_t k = 0; k < inputs; k += 64) {
        RoundUnitToInt8(absl::MakeSpan(values).subspan(
            row + k, std::min<int64_t>(64, inputs - k)));
      }
    }
    return values;
  }
  for (float& value : values) {
    if (format == WeightFormat::kBFloat16) {
      value = WidenBFloat16(NarrowToBFloat16(value));
    } else if (format == WeightFormat::kFloat16) {
      value = WidenFloat16(NarrowToFloat16(value));
    }
  }
  return values;
}

// Packs weights in each format that there is, and what they are then in
// float32; of outputs and inputs around the edges of panels, steps and units.
void ForEveryFormat(Backend& backend,
                    absl::FunctionRef<void(const PackedWeight& narrow,
                                           const PackedWeight& wide)>
                        check) {
  for (const WeightFormat format : kWeightFormats) {
    if (!backend.HasFormat(format)) continue;
    for (const auto& [outputs, inputs] : std::vector<std::pair<int, int>>{
             {1, 1}, {31, 7}, {33, 40}, {64, 65}, {130, 300}}) {
      SCOPED_TRACE(testing::Message() << WeightFormatName(format) << " "
                                      << outputs << " x " << inputs);
      const Floats weight = RandomFloats(1, outputs * inputs);
      const auto narrow = PackFloats(backend, weight, outputs, inputs, format);
      const auto wide =
          PackFloats(backend, Rounded(weight, inputs, format), outputs, inputs);
      EXPECT_EQ(narrow->format(), format);
      check(*narrow, *wide);
    }
  }
}

TEST_P(BackendTest, EveryFormatEmbedsAsItsValuesInFloat32) {
  ForEveryFormat(
      backend(), [&](const PackedWeight& narrow, const PackedWeight& wide) {
        if (narrow.format() == WeightFormat::kInt8) {
          // A scale for one input is more than that.
          EXPECT_TRUE(narrow.bytes() * 2 <= wide.bytes() || wide.inputs() == 1);
        } else if (narrow.format() == WeightFormat::kInt4) {
          // Whole groups of 20 bytes, of a multiple of 32 outputs.
          EXPECT_EQ(narrow.bytes(), (wide.outputs() + 31) / 32 * 32 * 20 *
                                        ((wide.inputs() + 31) / 32));
        } else if (narrow.format() != WeightFormat::kFloat32) {
          EXPECT_EQ(narrow.bytes() * 2, wide.bytes());
        }
        const auto outputs = static_cast<int32_t>(wide.outputs());
        const std::vector<int32_t> ids = {outputs - 1, 0, outputs / 2};
        DeviceFloats actual(backend(), Floats(ids.size() * wide.inputs()));
        DeviceFloats expected(backend(), Floats(ids.size() * wide.inputs()));
        const StepRows& step = PrepareIds(backend(), ids);
        backend().Embed(step, narrow, actual.data());
        backend().Embed(step, wide, expected.data());
        ExpectSameBits(actual.ToHost(), expected.ToHost());
      });
}

// A product of the CPU takes x as it is.
TEST_P(CpuBackendTest, EveryFormatMultipliesAsItsValuesInFloat32) {
  ForEveryFormat(
      backend(), [&](const PackedWeight& narrow, const PackedWeight& wide) {
        const int64_t outputs = wide.outputs(), inputs = wide.inputs();
        for (const int64_t tokens : {1, 2, 5, 7, 49, 100}) {
          DeviceFloats x(backend(), RandomFloats(2, tokens * inputs));
          DeviceFloats actual(backend(), Floats(tokens * outputs));
          DeviceFloats expected(backend(), Floats(tokens * outputs));
          backend().MatMul(narrow, tokens, {x.data(), inputs}, {},
                           {actual.data(), outputs});
          backend().MatMul(wide, tokens, {x.data(), inputs}, {},
                           {expected.data(), outputs});
          ExpectSameBits(actual.ToHost(), expected.ToHost());
        }
      });
}

TEST_P(CpuBackendTest, ATokenThatIsNotFiniteChangesNoOther) {
  ForEveryFormat(
      backend(), [&](const PackedWeight& narrow, const PackedWeight&) {
        const int64_t outputs = narrow.outputs(), inputs = narrow.inputs();
        const int64_t tokens = 15;
        Floats x = RandomFloats(2, tokens * inputs);
        const auto product = [&] {
          DeviceFloats device_x(backend(), x);
          DeviceFloats y(backend(), Floats(tokens * outputs));
          backend().MatMul(narrow, tokens, {device_x.data(), inputs}, {},
                           {y.data(), outputs});
          return y.ToHost();
        };
        const Floats expected = product();
        x[3 * inputs] = kNan;
        x[8 * inputs + inputs - 1] = kInfinity;
        const Floats actual = product();
        for (int64_t token = 0; token < tokens; ++token) {
          const Floats row = Slice(actual, token, 1, outputs);
          if (token != 3 && token != 8) {
            ExpectSameBits(row, Slice(expected, token, 1, outputs));
          } else {
            EXPECT_FALSE(std::isfinite(row[0]));
          }
        }
      });
}

TEST_P(CpuBackendTest, HasEveryFormat) {
  for (const WeightFormat format : kWeightFormats) {
    EXPECT_TRUE(backend().HasFormat(format)) << WeightFormatName(format);
  }
}

TEST_P(BackendTest, NamesTheFormatsThatItHasWhereItHasNotTheOneAskedFor) {
  const Floats weight(1);
  const Tensor tensor{DataType::kFloat32, {1, 1}, weight.data()};
  for (const WeightFormat format : kWeightFormats) {
    const absl::Status status = backend().Pack(tensor, format).status();
    EXPECT_EQ(status.ok(), backend().HasFormat(format));
    if (status.ok()) continue;
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(status, backend().CheckFormat(format));
    EXPECT_THAT(
        std::string(status.message()),
        testing::AllOf(testing::HasSubstr(absl::StrCat(
                           " no weights in ", WeightFormatName(format))),
                       testing::HasSubstr("only in f32, bf16, f16, int8;")));
  }
}

TEST_P(BackendTest, KeepsValuesOf16BitsAsTheyAre) {
  std::vector<uint16_t> bits(40 * 3);
  for (size_t i = 0; i < bits.size(); ++i) {
    bits[i] = static_cast<uint16_t>(0x3000 + 37 * i);
  }
  for (const WeightFormat format :
       {WeightFormat::kBFloat16, WeightFormat::kFloat16}) {
    const Tensor tensor{StoredType(format), {40, 3}, bits.data()};
    auto packed = backend().Pack(tensor, format);
    ASSERT_TRUE(packed.ok());
    DeviceFloats row(backend(), Floats(3));
    backend().Embed(PrepareIds(backend(), {21}), **packed, row.data());
    ExpectSameBits(row.ToHost(), Slice(WidenToFloat32(tensor), 21, 1, 3));
  }
}

TEST_P(BackendTest, Int8HasAScaleForEach64InputsOfAnOutput) {
  Floats weight(2 * 130, 1e-39f);
  weight[0] = 127;
  weight[1] = 0.6f;
  weight[2] = 2.5f;  // ties to even
  weight[3] = -1000;
  weight[64] = -1.27f;
  weight[65] = 0.012f;
  const auto packed =
      PackFloats(backend(), weight, 2, 130, WeightFormat::kInt8);
  DeviceFloats rows(backend(), Floats(2 * 130));
  backend().Embed(PrepareIds(backend(), {0, 1}), *packed, rows.data());
  const float coarse = 1000 / 127.0f, fine = 1.27f / 127.0f;
  Floats expected(2 * 130);
  expected[0] = 16 * coarse;
  expected[3] = -127 * coarse;
  expected[64] = -127 * fine;
  expected[65] = fine;
  ExpectSameBits(rows.ToHost(), expected);
}

TEST_P(CpuBackendTest, Int4HasAScaleAndAMinimumForEach32InputsOfAnOutput) {
  // What 16 steps hold comes back as it was.
  Floats weight(2 * 70);
  for (int k = 0; k < 32; ++k) {
    weight[k] = -3 + 0.5f * static_cast<float>(k * 7 % 16);
    weight[32 + k] = 1024 + 64 * static_cast<float>(k % 16);
  }
  for (int k = 64; k < 70; ++k) weight[k] = -0.25f;
  const auto packed = PackFloats(backend(), weight, 2, 70, WeightFormat::kInt4);
  DeviceFloats rows(backend(), Floats(2 * 70));
  backend().Embed(PrepareIds(backend(), {0, 1}), *packed, rows.data());
  ExpectSameBits(rows.ToHost(), weight);
}

TEST_P(BackendTest, RefusesAWeightThatTheFormatHasNoNumberFor) {
  const Floats weight = {1, 70000};
  const Tensor tensor{DataType::kFloat32, {2, 1}, weight.data()};
  const absl::Status status =
      backend().Pack(tensor, WeightFormat::kFloat16).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              testing::HasSubstr("70000 is too large for f16"));
  const Floats infinite = {1, std::numeric_limits<float>::infinity()};
  EXPECT_EQ(backend()
                .Pack({DataType::kFloat32, {2, 1}, infinite.data()},
                      WeightFormat::kInt8)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(CpuBackendTest, RefusesAWeightThatInt4HasNoNumberFor) {
  for (const auto& [weight, message] :
       std::vector<std::pair<float, std::string>>{
           {65520, "the weight 65520 is too large for int4"},
           {-1e30f, "the weight -1e+30 is too large for int4"},
           {kInfinity, "the weight inf has no number in int4"},
           {kNan, "nan has no number in int4"}}) {
    Floats values(3 * 40, 1.0f);
    values[2 * 40 + 35] = weight;
    const absl::Status status =
        backend()
            .Pack({DataType::kFloat32, {3, 40}, values.data()},
                  WeightFormat::kInt4)
            .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(message));
  }
}

TEST_P(BackendTest, AddsPositionsToTokensOfAWiderMatrix) {
  DeviceFloats table(backend(), {0, 1, 10, 11, 20, 21});
  DeviceFloats target(backend(), {-1, 0.5, 0.25, -1, 100, 200, -1, 3, 4});
  const std::vector<SlotRow> rows = {
      {.slot = 0, .offset = 0, .tokens = 1, .position = 2},
      {.slot = 1, .offset = 1, .tokens = 0, .position = 1},
      {.slot = 2, .offset = 1, .tokens = 2, .position = 0}};
  backend().AddPositions(Prepare(backend(), rows), table.data(), 2,
                         {target.data() + 1, 3});
  EXPECT_THAT(target.ToHost(),
              ElementsAre(-1, 20.5, 21.25, -1, 100, 201, -1, 13, 15));
}

TEST_P(BackendTest, GathersAndScattersRowsOfWiderMatrices) {
  DeviceFloats source(backend(), {0, 1, 2, 10, 11, 12, 20, 21, 22});
  DeviceFloats target(backend(), Floats(8, -1.0f));
  backend().CopyRows({source.data() + 1, 3}, {2, 0}, 2, {target.data(), 4},
                     {0, 1});
  EXPECT_THAT(target.ToHost(), ElementsAre(21, 22, -1, -1, 1, 2, -1, -1));
  backend().CopyRows({source.data(), 3}, {1, 1}, 1, {target.data() + 3, 4},
                     {1, 0});
  EXPECT_THAT(target.ToHost(), ElementsAre(21, 22, -1, 10, 1, 2, -1, 10));
}

TEST_P(BackendTest, KeepsTheLastTokensOfRowsInTheirSlots) {
  DeviceFloats x(backend(), {1, 2, -1, 3, 4, -1, 5, 6, -1, 7, 8, -1});
  DeviceFloats kept(backend(), {10, 11, 0, 12, 13, 0, 14, 15, 0,  //
                                16, 17, 0, 18, 19, 0});
  std::vector<Row> rows(4);
  rows[0] = {.slot_in = 0, .slot_out = 0, .tokens = 1};
  rows[1] = {.slot_in = 1, .slot_out = 1, .tokens = 0};
  rows[2] = {.slot_in = 1, .slot_out = 3, .tokens = 0};
  rows[3] = {.slot_in = 1, .slot_out = 4, .tokens = 3};
  backend().KeepLastTokens(backend().PrepareStep(rows), {x.data(), 3}, 2,
                           {kept.data(), 3});
  EXPECT_THAT(kept.ToHost(), ElementsAre(1, 2, 0, 12, 13, 0, 14, 15, 0,  //
                                         12, 13, 0, 7, 8, 0));
}

TEST_P(BackendTest, FindsRowsThatAreNotFinite) {
  const int64_t width = 19, stride = 20, tokens = 8;
  Floats x(tokens * stride, 1.0f);
  x[0 * stride + 18] = kNan;
  x[1 * stride + 0] = kInfinity;
  x[2 * stride + 7] = -kInfinity;
  x[3 * stride + 19] = kNan;  // between the tokens
  x[4 * stride + 3] = std::numeric_limits<float>::max();
  x[7 * stride + 18] = kNan;
  DeviceFloats device_x(backend(), x);
  const std::vector<SlotRow> rows = {{0, 0, 1}, {1, 1, 1}, {2, 2, 1}, {3, 3, 1},
                                     {4, 4, 0}, {5, 4, 2}, {6, 6, 2}};
  std::vector<uint8_t> finite(rows.size(), 7);
  backend().FiniteRows(Prepare(backend(), rows), {device_x.data(), stride},
                       width, absl::MakeSpan(finite));
  ASSERT_TRUE(backend().Synchronize().ok());
  EXPECT_THAT(finite, ElementsAre(0, 0, 0, 1, 1, 1, 0));
}

// --- Norm.

TEST_P(BackendTest, NormsAreRight) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (const int64_t d_model : kEdgeSizes) {
      for (const int64_t tokens : {1, 3, 300}) {
        SCOPED_TRACE(testing::Message() << d_model << " x " << tokens);
        const Floats residual = RandomFloats(1, tokens * d_model, -3.0f, 5.0f);
        const Floats weight = RandomFloats(2, d_model);
        const Floats bias = RandomFloats(3, d_model);
        DeviceFloats device_residual(backend(), residual);
        DeviceFloats device_weight(backend(), weight);
        DeviceFloats device_bias(backend(), bias);
        DeviceFloats normed(backend(), Floats(tokens * d_model));
        backend().Norm({kind, device_weight.data(), device_bias.data(), 1e-5f},
                       tokens, d_model, device_residual.data(),
                       {normed.data(), d_model});
        ExpectClose(normed.ToHost(),
                    reference::Norm(kind, 1e-5f, d_model, Widened(residual),
                                    Widened(weight), Widened(bias)));
      }
    }
  }
}

// --- MatMul.

TEST_P(BackendTest, ProductsAreRightAtEveryEdge) {
  for (const int64_t outputs : kEdgeSizes) {
    for (const int64_t inputs : {1, 3, 16, 33, 129}) {
      const MatMulCase product(outputs, inputs);
      for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 13, 47, 48, 49}) {
        SCOPED_TRACE(testing::Message()
                     << tokens << " x " << inputs << " x " << outputs);
        const Floats x = RandomFloats(5, tokens * inputs);
        ExpectClose(product.Run(backend(), x), product.Expected(x),
                    std::max(1.0, std::sqrt(inputs) / 16));
      }
    }
  }
}

TEST_P(BackendTest, LongProductsAreRight) {
  const MatMulCase product(65, 3000);
  const Floats x = RandomFloats(5, 7 * 3000);
  ExpectClose(product.Run(backend(), x), product.Expected(x),
              std::sqrt(3000) / 16);
}

TEST_P(BackendTest, ProductsAddBiasThenActivateOrAccumulate) {
  for (const int64_t outputs : {5, 33, 64}) {
    MatMulCase product(outputs, 40);
    product.bias = RandomFloats(6, outputs);
    const Floats x = RandomFloats(5, 7 * 40);
    for (const Activation activation :
         {Activation::kNone, Activation::kSilu, Activation::kGelu,
          Activation::kGeluTanh}) {
      product.activation = activation;
      ExpectClose(product.Run(backend(), x), product.Expected(x));
    }
    product.activation = Activation::kNone;
    const Floats y = RandomFloats(7, 7 * outputs);
    reference::Values expected = product.Expected(x);
    for (size_t i = 0; i < y.size(); ++i) expected[i] += y[i];
    ExpectClose(product.Run(backend(), x, y, true), expected);
  }
}

TEST_P(BackendTest, ProductsReadAndWritePartsOfWiderMatrices) {
  const MatMulCase product(33, 20);
  const int64_t tokens = 9, x_stride = 23, y_stride = 37;
  const Floats x = RandomFloats(5, tokens * x_stride);
  const auto packed = PackFloats(backend(), product.weight, 33, 20);
  DeviceFloats device_x(backend(), x);
  DeviceFloats device_y(backend(), Floats(tokens * y_stride, -7.0f));
  backend().MatMul(*packed, tokens, {device_x.data() + 3, x_stride}, {},
                   {device_y.data() + 1, y_stride});
  const Floats y = device_y.ToHost();
  for (int64_t t = 0; t < tokens; ++t) {
    const Floats x_token(x.begin() + t * x_stride + 3,
                         x.begin() + t * x_stride + 23);
    const Floats y_token = Slice(y, t, 1, y_stride);
    ExpectClose(Floats(y_token.begin() + 1, y_token.begin() + 34),
                product.Expected(x_token));
    EXPECT_EQ(y_token[0], -7.0f);
    EXPECT_THAT(Floats(y_token.begin() + 34, y_token.end()), Each(-7.0f));
  }
}

TEST_P(BackendTest, ProductsOfATokenDoNotDependOnTheOthers) {
  for (const int64_t outputs : {17, 64, 129}) {
    MatMulCase product(outputs, 300);
    product.bias = RandomFloats(6, outputs);
    product.activation = Activation::kSilu;
    const int64_t tokens = 55;
    const Floats x = RandomFloats(5, tokens * 300);
    const Floats together = product.Run(backend(), x);
    for (int64_t t = 0; t < tokens; ++t) {
      ExpectSameBits(Slice(together, t, 1, outputs),
                     product.Run(backend(), Slice(x, t, 1, 300)));
    }
    for (const int64_t count : {2, 3, 5, 7, 31, 49}) {
      ExpectSameBits(Slice(together, 1, count, outputs),
                     product.Run(backend(), Slice(x, 1, count, 300)));
    }
  }
}

TEST_P(BackendTest, NanInOneTokenLeavesTheOthersAlone) {
  const MatMulCase product(40, 50);
  Floats x = RandomFloats(5, 8 * 50);
  const Floats clean = product.Run(backend(), x);
  x[3 * 50 + 7] = kNan;
  const Floats y = product.Run(backend(), x);
  ExpectSameBits(Slice(y, 0, 3, 40), Slice(clean, 0, 3, 40));
  ExpectSameBits(Slice(y, 4, 4, 40), Slice(clean, 4, 4, 40));
  for (const float value : Slice(y, 3, 1, 40)) EXPECT_TRUE(std::isnan(value));
}

TEST_P(BackendTest, DenormalsAreFlushedAndTheCallersModeIsKept) {
  MatMulCase product(64, 1);
  product.weight.assign(64, 1e-10f);
  EXPECT_THAT(product.Run(backend(), Floats(200, 1e-30f)), Each(0.0f));
  volatile float small = 1e-30f;
  volatile float smaller = small * 1e-10f;
  EXPECT_NE(smaller, 0.0f);
}

// --- CausalConv1d.

TEST_P(BackendTest, ConvolutionsAreRight) {
  for (const int64_t channels : kEdgeSizes) {
    for (int64_t d_conv = 1; d_conv <= 5; ++d_conv) {
      SCOPED_TRACE(testing::Message() << channels << " x " << d_conv);
      ConvCase conv(channels, d_conv);
      if (d_conv == 3) conv.bias.clear();
      if (d_conv == 4) conv.activation = Activation::kNone;
      const std::vector<SlotRow> rows = {{2, 0, 1}, {0, 1, 2}, {3, 3, 9}};
      const Floats x = RandomFloats(5, 12 * channels);
      const Floats before = RandomFloats(6, 4 * conv.WindowFloats());
      Floats states = before;
      const Floats y = conv.Run(backend(), rows, x, states);
      for (const SlotRow& row : rows) {
        reference::Values window =
            Widened(Slice(before, row.slot, 1, conv.WindowFloats()));
        ExpectClose(
            Slice(y, row.offset, row.tokens, channels),
            conv.Expected(Slice(x, row.offset, row.tokens, channels), window));
        ExpectClose(Slice(states, row.slot, 1, conv.WindowFloats()), window,
                    0.0);
      }
      ExpectSameBits(Slice(states, 1, 1, conv.WindowFloats()),
                     Slice(before, 1, 1, conv.WindowFloats()));
    }
  }
}

TEST_P(BackendTest, ConvolutionInChunksIsTheSame) {
  for (const int64_t channels : {5, 16, 129}) {
    for (int64_t d_conv = 1; d_conv <= 5; ++d_conv) {
      const ConvCase conv(channels, d_conv);
      const int64_t tokens = 11;
      const Floats x = RandomFloats(5, tokens * channels);
      Floats whole_state(conv.WindowFloats());
      const Floats whole = conv.Run(
          backend(), std::vector<SlotRow>{{0, 0, tokens}}, x, whole_state);
      for (int chunk = 1; chunk < tokens; ++chunk) {
        Floats state(conv.WindowFloats());
        Floats y;
        for (int first = 0; first < tokens; first += chunk) {
          const int count = std::min<int>(chunk, tokens - first);
          const Floats part =
              conv.Run(backend(), std::vector<SlotRow>{{0, 0, count}},
                       Slice(x, first, count, channels), state);
          y.insert(y.end(), part.begin(), part.end());
        }
        ExpectSameBits(y, whole);
        ExpectSameBits(state, whole_state);
      }
    }
  }
}

// --- SelectiveScan.

TEST_P(BackendTest, ScansAreRight) {
  for (const int64_t d_inner : kEdgeSizes) {
    for (const int64_t d_state : {1, 5, 16, 17}) {
      SCOPED_TRACE(testing::Message() << d_inner << " x " << d_state);
      const ScanCase scan(d_inner, d_state, 12);
      const std::vector<SlotRow> rows = {{2, 0, 1}, {0, 1, 2}, {3, 3, 9}};
      const Floats before = RandomFloats(6, 4 * scan.StateFloats());
      Floats states = before;
      const Floats y = scan.Run(backend(), rows, states);
      for (const SlotRow& row : rows) {
        reference::Values state =
            Widened(Slice(before, row.slot, 1, scan.StateFloats()));
        const reference::Values expected =
            scan.Part(row.offset, row.tokens).Expected(state);
        ExpectClose(Slice(y, row.offset, row.tokens, d_inner), expected);
        ExpectClose(Slice(states, row.slot, 1, scan.StateFloats()), state);
      }
      ExpectSameBits(Slice(states, 1, 1, scan.StateFloats()),
                     Slice(before, 1, 1, scan.StateFloats()));
    }
  }
}

TEST_P(BackendTest, ScansWithManyStatesAreRight) {
  for (const int64_t d_state : {63, 64, 65, 300}) {
    const ScanCase scan(19, d_state, 6);
    Floats states(scan.StateFloats());
    const Floats y =
        scan.Run(backend(), std::vector<SlotRow>{{0, 0, 6}}, states);
    reference::Values state(scan.StateFloats());
    ExpectClose(y, scan.Expected(state));
    ExpectClose(states, state);
  }
}

TEST_P(BackendTest, ScanInChunksIsTheSame) {
  for (const int64_t d_inner : {3, 16, 67}) {
    for (const int64_t d_state : {1, 16, 65}) {
      const int tokens = 13;
      const ScanCase scan(d_inner, d_state, tokens);
      Floats whole_state(scan.StateFloats(), 0.5f);
      const Floats whole = scan.Run(
          backend(), std::vector<SlotRow>{{0, 0, tokens}}, whole_state);
      for (int chunk = 1; chunk < tokens; ++chunk) {
        Floats state(scan.StateFloats(), 0.5f);
        Floats y;
        for (int first = 0; first < tokens; first += chunk) {
          const int count = std::min(chunk, tokens - first);
          const Floats part =
              scan.Part(first, count)
                  .Run(backend(), std::vector<SlotRow>{{0, 0, count}}, state);
          y.insert(y.end(), part.begin(), part.end());
        }
        ExpectSameBits(y, whole);
        ExpectSameBits(state, whole_state);
      }
    }
  }
}

TEST_P(BackendTest, ScanOfARowDoesNotDependOnTheOthers) {
  const ScanCase scan(130, 16, 40);
  const std::vector<SlotRow> rows = {
      {1, 0, 1}, {4, 1, 30}, {0, 31, 2}, {2, 33, 7}};
  const Floats before = RandomFloats(6, 5 * scan.StateFloats());
  Floats states = before;
  const Floats together = scan.Run(backend(), rows, states);
  for (const SlotRow& row : rows) {
    Floats state = Slice(before, row.slot, 1, scan.StateFloats());
    const Floats alone =
        scan.Part(row.offset, row.tokens)
            .Run(backend(), std::vector<SlotRow>{{0, 0, row.tokens}}, state);
    ExpectSameBits(Slice(together, row.offset, row.tokens, 130), alone);
    ExpectSameBits(Slice(states, row.slot, 1, scan.StateFloats()), state);
  }
}

TEST_P(BackendTest, ScanMayWriteOverItsInput) {
  for (const int tokens : {1, 9}) {
    const ScanCase scan(67, 16, tokens);
    const std::vector<SlotRow> rows = {{0, 0, tokens}};
    Floats state(scan.StateFloats()), state_in_place = state;
    const Floats y = scan.Run(backend(), rows, state);
    ExpectSameBits(scan.Run(backend(), rows, state_in_place, true), y);
    ExpectSameBits(state_in_place, state);
  }
}

TEST_P(BackendTest, NanInOneRowLeavesTheOthersAlone) {
  ScanCase scan(33, 16, 10);
  const std::vector<SlotRow> rows = {{0, 0, 4}, {1, 4, 3}, {2, 7, 3}};
  Floats clean_states(3 * scan.StateFloats()), states = clean_states;
  const Floats clean = scan.Run(backend(), rows, clean_states);
  scan.dt[5 * 33 + 2] = kNan;
  const Floats y = scan.Run(backend(), rows, states);
  ExpectSameBits(Slice(y, 0, 4, 33), Slice(clean, 0, 4, 33));
  ExpectSameBits(Slice(y, 7, 3, 33), Slice(clean, 7, 3, 33));
  EXPECT_TRUE(std::isnan(y[5 * 33 + 2]));
  EXPECT_TRUE(std::isnan(y[6 * 33 + 2]));
}

// A scan of one token from state 0 with b = x = 1 leaves softplus(dt) in the
// state, whatever a is.
TEST_P(BackendTest, SoftplusIsAccurateEverywhere) {
  Floats values = {-200.0f, -87.6f, -86.5f, -80.0f, -30.0f, -17.0f, -1e-30f,
                   0.0f,    1e-30f, 19.9f,  20.0f,  20.1f,  88.0f,  1e4f};
  for (float v = -85.0f; v < 40.0f; v += 0.0371f) values.push_back(v);
  ScanCase scan(static_cast<int64_t>(values.size()), 1, 1);
  scan.x.assign(values.size(), 1.0f);
  scan.dt = values;
  scan.dt_bias.assign(values.size(), 0.0f);
  scan.b = {1.0f};
  Floats state(values.size());
  scan.Run(backend(), std::vector<SlotRow>{{0, 0, 1}}, state);
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = reference::Softplus(values[i]);
    // Below e^-87 results are no longer normal numbers.
    EXPECT_NEAR(state[i], expected, 3e-7 * expected + 2e-38)
        << "softplus(" << values[i] << ")";
  }
}

// With x = 0 a scan multiplies the state by exp(delta a); delta is 64 here.
TEST_P(BackendTest, ExpIsAccurateEverywhere) {
  Floats values = {-1e30f, -1e4f, -88.0f, -87.4f, -86.9f, -0.0f,
                   1e-30f, 88.0f, 88.7f,  89.0f,  1e4f};
  for (float v = -86.5f; v < 88.6f; v += 0.0371f) values.push_back(v);
  ScanCase scan(static_cast<int64_t>(values.size()), 1, 1);
  scan.x.assign(values.size(), 0.0f);
  scan.dt.assign(values.size(), 64.0f);
  scan.dt_bias.assign(values.size(), 0.0f);
  for (size_t i = 0; i < values.size(); ++i) scan.a[i] = values[i] / 64.0f;
  Floats state(values.size(), 1.0f);
  scan.Run(backend(), std::vector<SlotRow>{{0, 0, 1}}, state);
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = std::exp(static_cast<double>(values[i]));
    if (expected > std::numeric_limits<float>::max()) {
      EXPECT_EQ(state[i], kInfinity) << "exp(" << values[i] << ")";
    } else {
      EXPECT_NEAR(state[i], expected, 2.4e-7 * expected + 2e-38)
          << "exp(" << values[i] << ")";
    }
  }
}

// A product with weight 1 and an activation is the activation itself.
Floats Activated(Backend& backend, Activation activation,
                 const Floats& values) {
  MatMulCase product(1, 1);
  product.weight = {1.0f};
  product.activation = activation;
  return product.Run(backend, values);
}

TEST_P(BackendTest, SiluIsAccurateEverywhere) {
  Floats values = {-1e30f, -100.0f, -88.0f, 0.0f, 88.0f, 1e30f};
  for (float v = -87.0f; v < 30.0f; v += 0.0371f) values.push_back(v);
  const Floats y = Activated(backend(), Activation::kSilu, values);
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = reference::Silu(values[i]);
    EXPECT_NEAR(y[i], expected, 3e-7 * std::abs(expected) + 1e-36)
        << "silu(" << values[i] << ")";
  }
}

TEST_P(BackendTest, GeluIsAccurateEverywhere) {
  Floats values = {-1e30f, -100.0f, -14.0f, -1e-6f, -1e-30f, 0.0f,
                   1e-30f, 1e-6f,   14.0f,  100.0f, 1e30f};
  for (float v = -13.0f; v < 13.0f; v += 0.00171f) values.push_back(v);
  const Floats y = Activated(backend(), Activation::kGelu, values);
  for (size_t i = 0; i < values.size(); ++i) {
    const double x = values[i];
    const double expected = reference::Gelu(x);
    // The exponent x² / 2 of the left tail is rounded to a float.
    const double exponent = x < 0.0 ? std::min(x * x / 2.0, 90.0) : 0.0;
    const double relative = 4e-7 + 1e-7 * exponent;
    EXPECT_NEAR(y[i], expected, relative * std::abs(expected) + 1e-36)
        << "gelu(" << x << ")";
  }
}

TEST_P(BackendTest, GeluTanhIsAccurateEverywhere) {
  Floats values = {-1e30f, -100.0f, -14.0f, -1e-6f, -1e-30f, 0.0f,
                   1e-30f, 1e-6f,   14.0f,  100.0f, 1e30f};
  for (float v = -9.0f; v < 9.0f; v += 0.00171f) values.push_back(v);
  const Floats y = Activated(backend(), Activation::kGeluTanh, values);
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = reference::GeluTanh(values[i]);
    // The exponent of the left tail, and with it the relative error, grows with
    // x³; the reference itself ends where tanh rounds to -1.
    const double cube = values[i] < 0.0f ? std::abs(std::pow(values[i], 3)) : 0;
    const double relative = 4e-7 + 3e-8 * std::min(cube, 1000.0);
    EXPECT_NEAR(y[i], expected, relative * std::abs(expected) + 1e-15)
        << "gelu(" << values[i] << ")";
  }
}

// What a fault turned into infinity or NaN must not become an ordinary number
// again, except where that is the limit.
TEST_P(BackendTest, ActivationsOfInfinityAndNanAreNotOrdinaryNumbers) {
  for (const Activation activation :
       {Activation::kNone, Activation::kSilu, Activation::kGelu,
        Activation::kGeluTanh}) {
    SCOPED_TRACE(testing::Message()
                 << "activation " << static_cast<int>(activation));
    const Floats y =
        Activated(backend(), activation, {kInfinity, -kInfinity, kNan});
    EXPECT_EQ(y[0], kInfinity);
    EXPECT_FALSE(std::isfinite(y[1]));
    EXPECT_TRUE(std::isnan(y[2]));
  }
}

INSTANTIATE_TEST_SUITE_P(All, BackendTest,
                         ::testing::ValuesIn(BackendsUnderTest()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Cpu, CpuBackendTest,
                         ::testing::ValuesIn(CpuBackendsUnderTest()),
                         [](const auto& info) { return info.param.name; });

// --- Not parameterised.

#if HWY_ARCH_X86
TEST(CpuBackend, GivesTheSameBitsWithAvx2AndAvx512) {
  UseCpuTargets(0);
  if ((hwy::SupportedTargets() & HWY_AVX3) == 0) GTEST_SKIP() << "no AVX-512";
  auto backend = MakeBackend({BackendKind::kCpu, 1});
  ASSERT_TRUE(backend.ok());
  MatMulCase product(129, 300);
  const ConvCase conv(67, 4);
  const ScanCase scan(67, 16, 9);
  const Floats x = RandomFloats(5, 9 * 300);
  const Floats conv_x = RandomFloats(6, 9 * 67);
  const std::vector<SlotRow> rows = {{0, 0, 9}};
  std::vector<Floats> first;
  for (const int64_t target : {HWY_AVX3, HWY_AVX2}) {
    UseCpuTargets(target);
    Floats window(conv.WindowFloats()), state(scan.StateFloats());
    std::vector<Floats> results;
    for (const Activation activation :
         {Activation::kNone, Activation::kSilu, Activation::kGelu,
          Activation::kGeluTanh}) {
      product.activation = activation;
      results.push_back(product.Run(**backend, x));
    }
    results.push_back(conv.Run(**backend, rows, conv_x, window));
    results.push_back(scan.Run(**backend, rows, state));
    results.push_back(state);
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
      Floats weight(300, 1.0f), normed(9 * 300);
      (*backend)->Norm({kind, weight.data(), weight.data(), 1e-5f}, 9, 300,
                       x.data(), {normed.data(), 300});
      results.push_back(normed);
    }
    if (first.empty()) first = results;
    for (size_t i = 0; i < results.size(); ++i) {
      ExpectSameBits(results[i], first[i]);
    }
  }
  UseCpuTargets(0);
}
#endif

TEST(CpuBackendDeathTest, BugsOfTheCallerStopTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto backend = MakeBackend({BackendKind::kCpu, 1});
  ASSERT_TRUE(backend.ok());
  const auto table = PackFloats(**backend, Floats(6), 3, 2);
  Floats residual(2);
  EXPECT_DEATH(
      (*backend)->Embed(PrepareIds(**backend, {3}), *table, residual.data()),
      "broken invariant");
  const ScanCase scan(3, 2, 2);
  Floats states(3 * scan.StateFloats());
  const auto run = [&](const std::vector<SlotRow>& rows) {
    (void)scan.Run(**backend, rows, states);
  };
  // A slot that two rows write, or that one writes and another reads.
  EXPECT_DEATH(run({{0, 0, 1}, {0, 1, 1}}), "broken invariant");
  EXPECT_DEATH(run({{0, 0, 1, 2}, {1, 1, 1, 2}}), "broken invariant");
  EXPECT_DEATH(run({{0, 0, 1, 2}, {2, 1, 1, 1}}), "broken invariant");
  EXPECT_DEATH(run({{0, 0, -1}}), "broken invariant");
  MatMulCase product(2, 2);
  product.activation = Activation::kSilu;
  EXPECT_DEATH(product.Run(**backend, Floats(2), Floats(2), true),
               "broken invariant");
  // Activations that it does not compute with, and logits that nobody does.
  EXPECT_FALSE((*backend)->Computes(DataType::kBFloat16));
  Floats weight(2, 1.0f), normed(2);
  EXPECT_DEATH(
      (*backend)->Norm({NormKind::kRms, weight.data()}, 1, 2, residual.data(),
                       {normed.data(), 2, DataType::kBFloat16}),
      "broken invariant.*ComputesAll");
  EXPECT_DEATH(
      (*backend)->AddPositions(PrepareIds(**backend, {0}), weight.data(), 2,
                               {normed.data(), 2, DataType::kFloat16}),
      "broken invariant.*AreFloat32");
}

TEST(CpuBackend, RunsWhatItIsAskedToReplay) {
  auto backend = MakeBackend({BackendKind::kCpu, 1});
  ASSERT_TRUE(backend.ok());
  int runs = 0;
  (*backend)->Replay(1, [&] { ++runs; });
  (*backend)->Replay(1, [&] { ++runs; });
  EXPECT_EQ(runs, 2);
}

TEST(MakeBackend, TakesCudaByItselfWhereItCanBeHadAndElseTheCpu) {
  const auto cuda = MakeBackend({BackendKind::kCuda});
  BackendOptions options;
  absl::Status reason;
  options.on_no_device = [&](const absl::Status& status) { reason = status; };
  const auto backend = MakeBackend(options);
  ASSERT_TRUE(backend.ok());
  EXPECT_EQ((*backend)->name(), cuda.ok() ? "cuda" : "cpu");
#if defined(ENGRAM_HAS_CUDA)
  EXPECT_EQ(reason, cuda.status());
#else
  EXPECT_TRUE(reason.ok()) << "this build has nothing to miss";
#endif
}

#if !defined(ENGRAM_HAS_CUDA)
TEST(MakeBackend, RefusesCudaWithTheReason) {
  const auto backend = MakeBackend({BackendKind::kCuda, 0});
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(backend.status().message(),
            "this build has no CUDA back end; use --backend=cpu");
}
#endif

TEST(MakeBackend, RefusesImpossibleThreadCounts) {
  for (const int threads : {-1, 100000}) {
    EXPECT_EQ(MakeBackend({BackendKind::kCpu, threads}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace engram

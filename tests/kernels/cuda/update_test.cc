// Updates of states that take one kernel give bit for bit what their operations
// give one after the other, whatever the number of rows is, where rows have no
// token, and where a state goes to another slot than it came from.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/diagonal_scan.h"
#include "kernels/cuda/h3_update.h"
#include "kernels/cuda/mamba_update.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/selective_scan.h"
#include "kernels/cuda/shift_multiply.h"
#include "kernels/cuda/ssd_scan.h"
#include "kernels/cuda/ssd_update.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/status.h"
#include "tests/kernels/kernel_test_case.h"

namespace engram {
namespace {

// Of a block with one row, and around those with a few.
constexpr int kRowCounts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 33};

// Rows with a token in place or elsewhere, and in between rows without one that
// leave their state or copy it. No slot is of two rows.
std::vector<SlotRow> DecodeRows(int count) {
  std::vector<SlotRow> rows;
  int offset = 0;
  for (int i = 0; i < count; ++i) {
    const int tokens = i % 5 == 3 || i % 5 == 4 ? 0 : 1;
    rows.push_back({2 * i, offset, tokens,
                    i % 5 == 1 || i % 5 == 4 ? 2 * i + 1 : -1, 3 + 7 * i});
    offset += tokens;
  }
  return rows;
}

// Rows without a token may have a place of one, whose values mean nothing.
int64_t Places(const std::vector<SlotRow>& rows) {
  return std::max<int64_t>(rows.back().offset + rows.back().tokens,
                           rows.size());
}

class CudaUpdateTest : public ::testing::Test {
 protected:
  CudaUpdateTest() {
    auto made = MakeCudaBackend();
    ENGRAM_CHECK_OK(made.status());
    backend_ = *std::move(made);
    EXPECT_EQ(cudaStreamCreate(&stream_), cudaSuccess);
  }
  ~CudaUpdateTest() override { (void)cudaStreamDestroy(stream_); }

  Backend& backend() { return *backend_; }
  cudaStream_t stream() const { return stream_; }

  const cuda::StepTable& Table(const std::vector<SlotRow>& rows) {
    bool moved = false;
    ENGRAM_CHECK_OK(tables_.LayOut(Prepare(backend(), rows), stream_, &moved));
    ENGRAM_CHECK_OK(upload_.Copy(0, tables_.end(), stream_));
    return tables_.table();
  }
  // [tokens, width], as columns of a wider matrix whose rows begin anywhere, or
  // by themselves.
  Matrix Wide(const Floats& values, int64_t width) {
    return {Keep(ToWide(values, width)) + kMargin, WideStride(width)};
  }
  Matrix Dense(const Floats& values, int64_t width) {
    return {Keep(values), width};
  }
  float* Keep(const Floats& values) {
    floats_.push_back(std::make_unique<DeviceFloats>(backend(), values));
    return floats_.back()->data();
  }
  const cuda::WeightView& Pack(const Floats& values, int64_t outputs,
                               int64_t inputs, WeightFormat format) {
    packed_.push_back(PackFloats(backend(), values, outputs, inputs, format));
    return static_cast<const cuda::PackedMatrix&>(*packed_.back()).view();
  }

  // What a way leaves of the rows' y [tokens, width] and of the shares of all
  // slots.
  struct Result {
    Floats y;
    std::vector<Floats> states;
  };
  using Way =
      std::function<cudaError_t(const cuda::StepTable& step, Matrix y,
                                const std::vector<LayerShares>& states)>;
  Result Run(const std::vector<SlotRow>& rows, int64_t width,
             const std::vector<int64_t>& state_floats, const Way& way) {
    const cuda::StepTable& step = Table(rows);
    const int64_t slots = 2 * static_cast<int64_t>(rows.size());
    DeviceFloats y(backend(), ToWide(Floats(Places(rows) * width), width));
    std::vector<std::unique_ptr<DeviceShares>> apart;
    std::vector<std::unique_ptr<DeviceFloats>> dense;
    std::vector<LayerShares> shares;
    for (const int64_t floats : state_floats) {
      const Floats values = RandomFloats(90 + shares.size(), slots * floats);
      if (is_dense_) {
        dense.push_back(std::make_unique<DeviceFloats>(backend(), values));
        shares.push_back({dense.back()->data(), floats});
      } else {
        apart.push_back(
            std::make_unique<DeviceShares>(backend(), values, floats));
        shares.push_back(apart.back()->shares());
      }
    }
    EXPECT_TRUE(backend().Synchronize().ok());
    EXPECT_EQ(way(step, {y.data() + kMargin, WideStride(width)}, shares),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    // Places of no row's token are written or not.
    Result result = {Slice(FromWide(y.ToHost(), width), 0,
                           rows.back().offset + rows.back().tokens, width),
                     {}};
    for (const auto& state : apart) result.states.push_back(state->ToHost());
    for (const auto& state : dense) result.states.push_back(state->ToHost());
    return result;
  }
  void ExpectSame(const std::vector<SlotRow>& rows, int64_t width,
                  const std::vector<int64_t>& state_floats, const Way& update,
                  const Way& operations) {
    SCOPED_TRACE(testing::Message() << rows.size() << " rows");
    const Result actual = Run(rows, width, state_floats, update);
    const Result expected = Run(rows, width, state_floats, operations);
    ExpectSameBits(actual.y, expected.y);
    for (size_t i = 0; i < state_floats.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "state " << i);
      ExpectSameBits(actual.states[i], expected.states[i]);
    }
  }

  // Whether states begin at aligned addresses, or anywhere.
  bool is_dense_ = false;

 private:
  std::unique_ptr<Backend> backend_;
  cudaStream_t stream_ = nullptr;
  cuda::StepUpload upload_;
  cuda::StepTables tables_{&upload_};
  std::vector<std::unique_ptr<DeviceFloats>> floats_;
  std::vector<std::unique_ptr<PackedWeight>> packed_;
};

struct MambaShape {
  int64_t d_inner, d_state, dt_rank;
  WeightFormat format;
  bool is_dense;  // delta, b and c lie side by side, at aligned addresses
  bool has_bias;
};

class CudaMambaUpdateTest : public CudaUpdateTest {
 protected:
  // With the inputs of `tokens` tokens.
  cuda::MambaUpdateArguments Arguments(const MambaShape& shape,
                                       int64_t tokens) {
    const auto& [d_inner, d_state, dt_rank, format, is_dense, has_bias] = shape;
    const auto values = [&](uint32_t seed, int64_t width) {
      const Floats floats = RandomFloats(seed, tokens * width, -2.0f, 2.0f);
      return is_dense ? Dense(floats, width) : Wide(floats, width);
    };
    cuda::MambaUpdateArguments arguments;
    MatMulOptions options;
    if (has_bias) options.bias = Keep(RandomFloats(2, d_inner));
    arguments.dt_proj = cuda::ArgumentsOf(
        Pack(RandomFloats(1, d_inner * dt_rank), d_inner, dt_rank, format),
        tokens, values(3, dt_rank), options, values(4, d_inner));
    SelectiveScanArguments& scan = arguments.scan;
    scan.d_inner = d_inner;
    scan.d_state = d_state;
    scan.x = values(5, d_inner);
    scan.dt = arguments.dt_proj.y;
    scan.b = values(6, d_state);
    scan.c = values(7, d_state);
    scan.z = values(8, d_inner);
    scan.dt_bias = Keep(RandomFloats(9, d_inner));
    scan.a = Keep(RandomFloats(10, d_state * d_inner, -8.0f, -0.01f));
    scan.d = Keep(RandomFloats(11, d_inner));
    return arguments;
  }

  void ExpectIsItsOperations(const MambaShape& shape,
                             const std::vector<SlotRow>& rows) {
    const int64_t tokens = Places(rows);
    is_dense_ = shape.is_dense;
    cuda::MambaUpdateArguments arguments = Arguments(shape, tokens);
    ExpectSame(
        rows, shape.d_inner, {shape.d_inner * shape.d_state},
        [&](const cuda::StepTable& step, Matrix y,
            const std::vector<LayerShares>& states) {
          arguments.scan.ssm_state = states[0];
          arguments.scan.y = y;
          return cuda::MambaUpdate(stream(), step, arguments);
        },
        [&](const cuda::StepTable& step, Matrix y,
            const std::vector<LayerShares>& states) {
          const Matrix dt =
              Dense(Floats(tokens * shape.d_inner), shape.d_inner);
          EXPECT_EQ(cuda::Product(stream(), cuda::ArgumentsOf(
                                                arguments.dt_proj.weight,
                                                tokens, arguments.dt_proj.x,
                                                arguments.dt_proj.options, dt)),
                    cudaSuccess);
          SelectiveScanArguments scan = arguments.scan;
          scan.dt = dt;
          scan.ssm_state = states[0];
          scan.y = y;
          return cuda::SelectiveScan(stream(), step, scan);
        });
  }
};

constexpr WeightFormat kFormats[] = {
    WeightFormat::kFloat32, WeightFormat::kBFloat16, WeightFormat::kFloat16};

TEST_F(CudaMambaUpdateTest, GivesWhatItsOperationsGiveForAnyNumberOfRows) {
  for (const WeightFormat format : kFormats) {
    SCOPED_TRACE(WeightFormatName(format));
    for (const int count : kRowCounts) {
      ExpectIsItsOperations({70, 16, 48, format, true, false},
                            DecodeRows(count));
    }
  }
}

TEST_F(CudaMambaUpdateTest, GivesWhatItsOperationsGiveForAnyShape) {
  for (const WeightFormat format : kFormats) {
    for (const auto& [d_inner, d_state, dt_rank] :
         {std::tuple{1, 1, 1}, std::tuple{31, 5, 3}, std::tuple{32, 16, 64},
          std::tuple{33, 13, 65}, std::tuple{40, 16, 300},
          // In more than one kernel.
          std::tuple{9, 17, 3}, std::tuple{9, 3, 1600}}) {
      for (const bool is_dense : {false, true}) {
        SCOPED_TRACE(testing::Message()
                     << WeightFormatName(format) << " " << d_inner << " x "
                     << d_state << ", " << dt_rank);
        for (const int count : {3, 10}) {
          ExpectIsItsOperations(
              {d_inner, d_state, dt_rank, format, is_dense, !is_dense},
              DecodeRows(count));
        }
      }
    }
  }
}

TEST_F(CudaMambaUpdateTest, GivesWhatItsOperationsGiveForLongRows) {
  ExpectIsItsOperations({35, 16, 5, WeightFormat::kBFloat16, true, true},
                        {{0, 0, 3}, {2, 3, 1, 3}, {4, 4, 0}, {6, 4, 2, 5}});
}

struct SsdShape {
  int64_t heads, groups, head_dim, d_state;
  bool is_dense;
};

class CudaSsdUpdateTest : public CudaUpdateTest {
 protected:
  cuda::SsdUpdateArguments Arguments(const SsdShape& shape, int64_t tokens) {
    const auto& [heads, groups, head_dim, d_state, is_dense] = shape;
    const auto values = [&](uint32_t seed, int64_t width) {
      const Floats floats = RandomFloats(seed, tokens * width, -2.0f, 2.0f);
      return is_dense ? Dense(floats, width) : Wide(floats, width);
    };
    cuda::SsdUpdateArguments arguments;
    SsdScanArguments& scan = arguments.scan;
    scan.heads = heads;
    scan.groups = groups;
    scan.head_dim = head_dim;
    scan.d_state = d_state;
    scan.x = values(1, heads * head_dim);
    scan.dt = values(2, heads);
    scan.b = values(3, groups * d_state);
    scan.c = values(4, groups * d_state);
    scan.dt_bias = Keep(RandomFloats(5, heads));
    scan.a = Keep(RandomFloats(6, heads, -8.0f, -0.01f));
    scan.d = Keep(RandomFloats(7, heads));
    scan.dt_min = 0.2f;
    scan.dt_max = 1.5f;
    arguments.z = values(8, heads * head_dim);
    return arguments;
  }

  void ExpectIsItsOperations(const SsdShape& shape,
                             const std::vector<SlotRow>& rows) {
    is_dense_ = shape.is_dense;
    cuda::SsdUpdateArguments arguments = Arguments(shape, Places(rows));
    const int64_t width = shape.heads * shape.head_dim;
    ExpectSame(
        rows, width, {width * shape.d_state},
        [&](const cuda::StepTable& step, Matrix y,
            const std::vector<LayerShares>& states) {
          arguments.scan.ssm_state = states[0];
          arguments.scan.y = y;
          return cuda::SsdUpdate(stream(), step, arguments);
        },
        [&](const cuda::StepTable& step, Matrix y,
            const std::vector<LayerShares>& states) {
          SsdScanArguments scan = arguments.scan;
          scan.ssm_state = states[0];
          scan.y = y;
          EXPECT_EQ(cuda::SsdScan(stream(), step, scan), cudaSuccess);
          GatedNormArguments gate;
          gate.tokens = Places(rows);
          gate.d_inner = width;
          gate.y = y;
          gate.z = arguments.z;
          gate.normed = y;
          return cuda::GatedNorm(stream(), gate);
        });
  }
};

TEST_F(CudaSsdUpdateTest, GivesWhatItsOperationsGiveForAnyNumberOfRows) {
  for (const int count : kRowCounts) {
    ExpectIsItsOperations({2, 1, 64, 20, true}, DecodeRows(count));
  }
}

TEST_F(CudaSsdUpdateTest, GivesWhatItsOperationsGiveForAnyShape) {
  for (const auto& [heads, groups, head_dim, d_state] :
       {std::tuple{1, 1, 1, 1}, std::tuple{6, 2, 3, 9},
        std::tuple{3, 3, 66, 16}, std::tuple{2, 1, 68, 128},
        std::tuple{2, 1, 4, 7},
        // In more than one kernel.
        std::tuple{2, 1, 4, 129}}) {
    for (const bool is_dense : {false, true}) {
      SCOPED_TRACE(testing::Message()
                   << heads << " heads of " << head_dim << " x " << d_state);
      ExpectIsItsOperations({heads, groups, head_dim, d_state, is_dense},
                            DecodeRows(6));
    }
  }
}

TEST_F(CudaSsdUpdateTest, GivesWhatItsOperationsGiveForLongRows) {
  ExpectIsItsOperations({2, 1, 8, 16, true},
                        {{0, 0, 3}, {2, 3, 1, 3}, {4, 4, 0}, {6, 4, 2, 5}});
}

struct H3Shape {
  int64_t channels, taps, pairs;
  bool is_dense;
  bool has_gate;
};

class CudaH3UpdateTest : public CudaUpdateTest {
 protected:
  cuda::H3UpdateArguments Arguments(const H3Shape& shape, int64_t tokens) {
    const auto& [channels, taps, pairs, is_dense, has_gate] = shape;
    const auto values = [&](uint32_t seed) {
      const Floats floats = RandomFloats(seed, tokens * channels);
      return is_dense ? Dense(floats, channels) : Wide(floats, channels);
    };
    cuda::H3UpdateArguments arguments;
    ShiftMultiplyArguments& shift = arguments.shift;
    shift.channels = channels;
    shift.taps = taps;
    shift.k = values(1);
    shift.v = values(2);
    shift.filter = Keep(RandomFloats(3, taps * channels));
    shift.p = values(4);
    DiagonalScanArguments& scan = arguments.scan;
    scan.channels = channels;
    scan.pairs = pairs;
    if (has_gate) scan.gate = values(5);
    scan.decay = Keep(RandomFloats(6, 2 * pairs * channels, -0.7f, 0.7f));
    scan.read = Keep(RandomFloats(7, 2 * pairs * channels));
    scan.d = Keep(RandomFloats(8, channels));
    scan.activation = has_gate ? Activation::kNone : Activation::kGelu;
    return arguments;
  }

  void ExpectIsItsOperations(const H3Shape& shape,
                             const std::vector<SlotRow>& rows) {
    is_dense_ = shape.is_dense;
    cuda::H3UpdateArguments arguments = Arguments(shape, Places(rows));
    ExpectSame(
        rows, shape.channels,
        {(shape.taps - 1) * shape.channels, 2 * shape.pairs * shape.channels},
        [&](const cuda::StepTable& step, Matrix y,
            const std::vector<LayerShares>& states) {
          arguments.shift.shift_state = states[0];
          arguments.scan.diagonal_state = states[1];
          arguments.scan.y = y;
          return cuda::H3Update(stream(), step, arguments);
        },
        [&](const cuda::StepTable& step, Matrix y,
            const std::vector<LayerShares>& states) {
          ShiftMultiplyArguments shift = arguments.shift;
          shift.shift_state = states[0];
          EXPECT_EQ(cuda::ShiftMultiply(stream(), step, shift), cudaSuccess);
          DiagonalScanArguments scan = arguments.scan;
          scan.p = shift.p;
          scan.diagonal_state = states[1];
          scan.y = y;
          return cuda::DiagonalScan(stream(), step, scan);
        });
  }
};

TEST_F(CudaH3UpdateTest, GivesWhatItsOperationsGiveForAnyNumberOfRows) {
  for (const int count : kRowCounts) {
    ExpectIsItsOperations({36, 64, 32, true, true}, DecodeRows(count));
  }
}

TEST_F(CudaH3UpdateTest, GivesWhatItsOperationsGiveForAnyShape) {
  for (const auto& [channels, taps, pairs] :
       {std::tuple{1, 1, 1}, std::tuple{31, 2, 3}, std::tuple{32, 4, 31},
        std::tuple{68, 5, 6}, std::tuple{4, 128, 2},
        // In more than one kernel.
        std::tuple{4, 129, 2}, std::tuple{4, 3, 33}}) {
    for (const bool is_dense : {false, true}) {
      SCOPED_TRACE(testing::Message() << channels << " channels, " << taps
                                      << " taps, " << pairs << " pairs");
      for (const int count : {5, 12}) {
        ExpectIsItsOperations({channels, taps, pairs, is_dense, is_dense},
                              DecodeRows(count));
      }
    }
  }
}

TEST_F(CudaH3UpdateTest, GivesWhatItsOperationsGiveForLongRows) {
  ExpectIsItsOperations({8, 4, 3, true, true},
                        {{0, 0, 3}, {2, 3, 1, 3}, {4, 4, 0}, {6, 4, 2, 5}});
}

}  // namespace
}  // namespace engram

// A block computes one token, row or pair of rows, its threads fours of
// elements. Bound by memory: Embed reads the bytes of a weight's row and
// writes 4 per element, AddPositions reads 8 and writes 4, CopyRows and
// KeepLastTokens read and write 4, CountNotFinite reads 4.
#include <algorithm>
#include <cstring>

#include "kernels/cuda/device.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_data.h"

namespace engram::cuda {
namespace {

constexpr int kThreads = 256;
// Loads of a thread that are on their way together.
constexpr int kAhead = 4;

// Calls visit(first of four, values or fewer) for this thread's share of
// `width` values, kAhead of which are loaded before one is visited:
// `load(first, left)` gives up to four of them.
template <class LoadValues, class Visit>
__device__ void VisitFours(int64_t width, const LoadValues& load,
                           const Visit& visit) {
  constexpr int64_t kStep = kThreads * 4;
  for (int64_t first = threadIdx.x * 4; first < width;
       first += kAhead * kStep) {
    float4 values[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t at = first + i * kStep;
      values[i] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (at < width) values[i] = load(at, width - at);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t at = first + i * kStep;
      if (at < width) visit(at, values[i]);
    }
  }
}

// Up to four values, as LoadFour.
__device__ void StoreFour(float* target, float4 four, int64_t count,
                          bool aligned) {
  if (aligned && count >= 4) {
    return Store(reinterpret_cast<float4*>(target), four);
  }
  if (count > 0) Store(target, four.x);
  if (count > 1) Store(target + 1, four.y);
  if (count > 2) Store(target + 2, four.z);
  if (count > 3) Store(target + 3, four.w);
}

__device__ void CopyValues(const float* source, float* target, int64_t width,
                           bool aligned) {
  VisitFours(
      width,
      [&](int64_t first, int64_t left) {
        return LoadFour(source + first, left, aligned);
      },
      [&](int64_t first, float4 four) {
        StoreFour(target + first, four, width - first, aligned);
      });
}

// Four values at a multiple of four of a weight's row, which its padding fills.
__device__ float4 WeightsAt(const WeightView& table, int64_t output,
                            int64_t input) {
  const int64_t index = output * table.stride + input;
  const auto halves = [&] {
    return LoadConstant(reinterpret_cast<const uint2*>(
        static_cast<const uint16_t*>(table.values) + index));
  };
  const auto widened = [](uint2 bits, auto widen) {
    return float4{widen(static_cast<uint16_t>(bits.x)),
                  widen(static_cast<uint16_t>(bits.x >> 16)),
                  widen(static_cast<uint16_t>(bits.y)),
                  widen(static_cast<uint16_t>(bits.y >> 16))};
  };
  switch (table.format) {
    case WeightFormat::kFloat32:
      return LoadConstant(reinterpret_cast<const float4*>(
          static_cast<const float*>(table.values) + index));
    case WeightFormat::kBFloat16:
      return widened(halves(), [](uint16_t bits) { return WidenBf16(bits); });
    case WeightFormat::kFloat16:
      return widened(halves(), [](uint16_t bits) { return WidenF16(bits); });
    case WeightFormat::kInt8: {
      const float scale = LoadConstant(
          table.scales + table.ScalePlace(output, input / kInt8UnitInputs));
      const uint32_t bytes = LoadConstant(reinterpret_cast<const uint32_t*>(
          static_cast<const int8_t*>(table.values) + index));
      const auto value = [&](int byte) {
        return static_cast<float>(static_cast<int8_t>(bytes >> 8 * byte)) *
               scale;
      };
      return {value(0), value(1), value(2), value(3)};
    }
    case WeightFormat::kInt4:
      break;
  }
  return {0.0f, 0.0f, 0.0f, 0.0f};
}

__global__ void __launch_bounds__(kThreads)
    EmbedKernel(StepTable step, WeightView table, float* residual,
                bool aligned) {
  GridWait();
  GridTrigger();
  const int64_t token = blockIdx.x;
  const int64_t row = Load(step.ids + token);
  float* const target = residual + token * table.inputs;
  VisitFours(
      table.inputs,
      [&](int64_t first, int64_t) { return WeightsAt(table, row, first); },
      [&](int64_t first, float4 four) {
        StoreFour(target + first, four, table.inputs - first, aligned);
      });
}

__global__ void AddPositionsKernel(StepTable step, const float* table,
                                   int64_t width, Matrix target) {
  GridWait();
  GridTrigger();
  const int64_t token = blockIdx.x;
  const StepRow row = RowAt(step, Load(step.row_of_token + token));
  const int64_t time = token - row.offset;
  if (time >= row.tokens) return;
  const int64_t position = row.position + time;
  float* const sums = At(target, token, 0);
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const float addend = LoadConstant(table + position * width + i);
    Store(sums + i, Load(sums + i) + addend);
  }
}

// Pairs of rows travel as arguments of the kernel: there is nothing to copy
// before it, and nothing that the host must keep.
constexpr int kMoves = 256;
struct RowMoves {
  int32_t from[kMoves];
  int32_t to[kMoves];
};

__global__ void __launch_bounds__(kThreads)
    CopyRowsKernel(ConstMatrix source, int64_t width, Matrix target,
                   RowMoves moves, bool aligned) {
  GridWait();
  GridTrigger();
  const int64_t from = moves.from[blockIdx.x];
  const int64_t to = moves.to[blockIdx.x];
  CopyValues(At(source, from, 0), At(target, to, 0), width, aligned);
}

__global__ void __launch_bounds__(kThreads)
    KeepLastTokensKernel(StepTable step, ConstMatrix x, int64_t width,
                         LayerShares kept, bool aligned) {
  GridWait();
  GridTrigger();
  const StepRow row = RowAt(step, blockIdx.x);
  if (row.tokens == 0 && row.slot_in == row.slot_out) return;
  const float* const values = row.tokens > 0
                                  ? At(x, row.offset + row.tokens - 1, 0)
                                  : ShareAt(kept, row.slot_in);
  CopyValues(values, ShareAt(kept, row.slot_out), width, aligned);
}

__device__ bool IsFinite(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return (bits & 0x7f800000u) != 0x7f800000u;
}

// blockIdx.y shares a row's tokens.
__global__ void __launch_bounds__(kThreads)
    CountNotFiniteKernel(StepTable step, ConstMatrix x, int64_t width,
                         uint32_t* not_finite, bool aligned) {
  GridWait();
  GridTrigger();
  const StepRow row = RowAt(step, blockIdx.x);
  bool finite = true;
  for (int64_t time = blockIdx.y; time < row.tokens; time += gridDim.y) {
    const float* const values = At(x, row.offset + time, 0);
    VisitFours(
        width,
        [&](int64_t first, int64_t left) {
          return LoadFour(values + first, left, aligned);
        },
        [&](int64_t, float4 four) {
          finite = finite && IsFinite(four.x) && IsFinite(four.y) &&
                   IsFinite(four.z) && IsFinite(four.w);
        });
  }
  const bool all_finite = All(finite);
  if (threadIdx.x % 32 == 0 && !all_finite) {
    AtomicAdd(not_finite + blockIdx.x, uint32_t{1});
  }
}

LaunchShape BlockPer(int64_t count, int64_t shares = 1) {
  LaunchShape shape;
  shape.grid =
      dim3(static_cast<unsigned>(count), static_cast<unsigned>(shares));
  shape.block = dim3(kThreads);
  return shape;
}

}  // namespace

cudaError_t Embed(cudaStream_t stream, const StepTable& step,
                  const WeightView& table, float* residual) {
  if (step.token_count == 0) return cudaSuccess;
  return Launch(BlockPer(step.token_count), stream, EmbedKernel, step, table,
                residual, AreFoursAligned(ConstMatrix{residual, table.inputs}));
}

cudaError_t AddPositions(cudaStream_t stream, const StepTable& step,
                         const float* table, int64_t width, Matrix target) {
  if (step.token_count == 0) return cudaSuccess;
  return Launch(BlockPer(step.token_count), stream, AddPositionsKernel, step,
                table, width, target);
}

cudaError_t CopyRows(cudaStream_t stream, ConstMatrix source,
                     const int32_t* from, int64_t width, Matrix target,
                     const int32_t* to, int64_t count) {
  for (int64_t first = 0; first < count; first += kMoves) {
    const int64_t moved = std::min<int64_t>(kMoves, count - first);
    RowMoves moves = {};
    std::copy_n(from + first, moved, moves.from);
    std::copy_n(to + first, moved, moves.to);
    const cudaError_t error =
        Launch(BlockPer(moved), stream, CopyRowsKernel, source, width, target,
               moves, AreFoursAligned(source) && AreFoursAligned(target));
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t KeepLastTokens(cudaStream_t stream, const StepTable& step,
                           ConstMatrix x, int64_t width, LayerShares kept) {
  if (step.row_count == 0) return cudaSuccess;
  return Launch(BlockPer(step.row_count), stream, KeepLastTokensKernel, step, x,
                width, kept, AreFoursAligned(x) && AreFoursAligned(kept));
}

cudaError_t CountNotFinite(cudaStream_t stream, const StepTable& step,
                           ConstMatrix x, int64_t width, uint32_t* not_finite) {
  if (step.row_count == 0) return cudaSuccess;
  // A long row has to be shared by many: a block waits for memory token by
  // token.
  constexpr int64_t kTokensPerBlock = 4;
  const int64_t shares = std::clamp<int64_t>(step.longest_row / kTokensPerBlock,
                                             int64_t{1}, int64_t{512});
  return Launch(BlockPer(step.row_count, shares), stream, CountNotFiniteKernel,
                step, x, width, not_finite, AreFoursAligned(x));
}

}  // namespace engram::cuda

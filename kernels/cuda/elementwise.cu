// A block computes one token, row or pair of rows, its threads the elements one
// after the other. Bound by memory: Embed reads the bytes of a weight's row and
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

constexpr int kThreads = 128;

__device__ float WeightAt(const WeightView& table, int64_t output,
                          int64_t input) {
  const int64_t index = output * table.stride + input;
  switch (table.format) {
    case WeightFormat::kFloat32:
      return LoadConstant(static_cast<const float*>(table.values) + index);
    case WeightFormat::kBFloat16:
      return WidenBf16(
          LoadConstant(static_cast<const uint16_t*>(table.values) + index));
    case WeightFormat::kFloat16:
      return WidenF16(
          LoadConstant(static_cast<const uint16_t*>(table.values) + index));
    case WeightFormat::kInt8: {
      const float scale = LoadConstant(
          table.scales + table.ScalePlace(output, input / kInt8UnitInputs));
      const int8_t value =
          LoadConstant(static_cast<const int8_t*>(table.values) + index);
      return static_cast<float>(value) * scale;
    }
    case WeightFormat::kInt4:
      break;
  }
  return 0.0f;
}

__global__ void EmbedKernel(StepTable step, WeightView table, float* residual) {
  GridWait();
  GridTrigger();
  const int64_t token = blockIdx.x;
  const int64_t row = Load(step.ids + token);
  for (int64_t i = threadIdx.x; i < table.inputs; i += blockDim.x) {
    Store(residual + token * table.inputs + i, WeightAt(table, row, i));
  }
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

__global__ void CopyRowsKernel(ConstMatrix source, int64_t width, Matrix target,
                               RowMoves moves) {
  GridWait();
  GridTrigger();
  const int64_t from = moves.from[blockIdx.x];
  const int64_t to = moves.to[blockIdx.x];
  const float* const values = At(source, from, 0);
  float* const copies = At(target, to, 0);
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    Store(copies + i, Load(values + i));
  }
}

__global__ void KeepLastTokensKernel(StepTable step, ConstMatrix x,
                                     int64_t width, LayerShares kept) {
  GridWait();
  GridTrigger();
  const StepRow row = RowAt(step, blockIdx.x);
  if (row.tokens == 0 && row.slot_in == row.slot_out) return;
  const float* const values = row.tokens > 0
                                  ? At(x, row.offset + row.tokens - 1, 0)
                                  : ShareAt(kept, row.slot_in);
  float* const copies = ShareAt(kept, row.slot_out);
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    Store(copies + i, Load(values + i));
  }
}

__device__ bool IsFinite(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return (bits & 0x7f800000u) != 0x7f800000u;
}

// blockIdx.y shares a row's tokens.
__global__ void CountNotFiniteKernel(StepTable step, ConstMatrix x,
                                     int64_t width, uint32_t* not_finite) {
  GridWait();
  GridTrigger();
  const StepRow row = RowAt(step, blockIdx.x);
  bool finite = true;
  for (int64_t time = blockIdx.y; time < row.tokens; time += gridDim.y) {
    const float* const values = At(x, row.offset + time, 0);
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
      finite = IsFinite(Load(values + i)) && finite;
    }
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
                residual);
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
    const cudaError_t error = Launch(BlockPer(moved), stream, CopyRowsKernel,
                                     source, width, target, moves);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t KeepLastTokens(cudaStream_t stream, const StepTable& step,
                           ConstMatrix x, int64_t width, LayerShares kept) {
  if (step.row_count == 0) return cudaSuccess;
  return Launch(BlockPer(step.row_count), stream, KeepLastTokensKernel, step, x,
                width, kept);
}

cudaError_t CountNotFinite(cudaStream_t stream, const StepTable& step,
                           ConstMatrix x, int64_t width, uint32_t* not_finite) {
  if (step.row_count == 0) return cudaSuccess;
  constexpr int64_t kTokensPerBlock = 16;
  const int64_t shares = std::clamp<int64_t>(step.longest_row / kTokensPerBlock,
                                             int64_t{1}, int64_t{64});
  return Launch(BlockPer(step.row_count, shares), stream, CountNotFiniteKernel,
                step, x, width, not_finite);
}

}  // namespace engram::cuda

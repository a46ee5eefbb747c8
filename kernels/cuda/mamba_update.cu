// A block has 32 channels of one row, or of four from nine rows on, and 128
// threads (update_lanes.h). Weights come before the kernels in front are done;
// then the states of all rows are asked for, 16 loads of a thread, and while
// they are on their way dt_proj, softplus and silu are computed. 7 or 8
// blocks have a multiprocessor: 56 KB of states on their way at least.
#include <cmath>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/block_product.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mamba_update.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/selective_scan.h"
#include "kernels/cuda/selective_step.h"
#include "kernels/cuda/update_lanes.h"

namespace engram::cuda {
namespace {

constexpr int kLaneStates = 4;
constexpr int kLines = kScanQuarters * kLaneStates;

static_assert(kUpdateChannels == kBlockProductOutputs &&
              kUpdateThreads == kBlockProductThreads);

// The rest of the shared memory is the product's.
template <int kRows>
struct Shared {
  UpdateRows<kRows> rows;
  float x[kRows * kUpdateChannels];
  float delta[kRows * kUpdateChannels];
  // State i of quarter q in column q kLaneStates + i; zero where there is none.
  float b[kRows * kLines];
  float c[kRows * kLines];
  UpdateSums<kRows> sums;
};

// A thread's states of every row.
template <int kRows>
struct States {
  QuarterStates part;
  int64_t first;  // place of the first in a slot's share
  float a[kLaneStates];
  float h[kRows][kLaneStates];
};

template <int kRows>
__device__ void LoadA(const SelectiveScanArguments& scan,
                      States<kRows>& states) {
#pragma unroll
  for (int i = 0; i < kLaneStates; ++i) {
    states.a[i] = i < states.part.count
                      ? LoadConstant(scan.a + states.first + i * scan.d_inner)
                      : 0.0f;
  }
}

template <int kRows>
__device__ void LoadStates(const SelectiveScanArguments& scan,
                           const UpdateRows<kRows>& rows,
                           States<kRows>& states) {
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const float* const in =
        ShareAt(scan.ssm_state, rows[row].slot_in) + states.first;
#pragma unroll
    for (int i = 0; i < kLaneStates; ++i) {
      states.h[row][i] = rows[row].Moves() && i < states.part.count
                             ? LoadStream(in + i * scan.d_inner)
                             : 0.0f;
    }
  }
}

template <int kRows>
__device__ void StoreStates(const SelectiveScanArguments& scan,
                            const UpdateRows<kRows>& rows,
                            const States<kRows>& states) {
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    float* const out =
        ShareAt(scan.ssm_state, rows[row].slot_out) + states.first;
#pragma unroll
    for (int i = 0; i < kLaneStates; ++i) {
      if (rows[row].Moves() && i < states.part.count) {
        StoreStream(out + i * scan.d_inner, states.h[row][i]);
      }
    }
  }
}

// b and c of all rows.
template <int kRows>
__device__ void PutLines(const SelectiveScanArguments& scan,
                         const UpdateRows<kRows>& rows, Shared<kRows>& shared) {
  const int row = threadIdx.x / kLines % kRows, line = threadIdx.x % kLines;
  if (threadIdx.x >= 2 * kRows * kLines) return;
  const bool is_c = threadIdx.x >= kRows * kLines;
  const int share = static_cast<int>(StatesOfAQuarter(scan.d_state));
  const int state = line / kLaneStates * share + line % kLaneStates;
  const bool exists = line % kLaneStates < share && state < scan.d_state;
  (is_c ? shared.c : shared.b)[row * kLines + line] =
      exists && rows[row].feeds
          ? Load(At(is_c ? scan.c : scan.b, rows[row].token, state))
          : 0.0f;
}

// A token of every row.
template <int kRows>
__device__ void Advance(const UpdateRows<kRows>& rows, const UpdateLane& lane,
                        Shared<kRows>& shared, States<kRows>& states) {
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    if (!rows[row].feeds) continue;
    const int place = row * kUpdateChannels + lane.block_channel;
    const SelectiveInputs inputs = {shared.x[place], shared.delta[place]};
    const int line = row * kLines + lane.quarter * kLaneStates;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kLaneStates; ++i) {
      AdvanceSelective(inputs, states.a[i], shared.b[line + i],
                       states.h[row][i]);
      sum = fmaf(shared.c[line + i], states.h[row][i], sum);
    }
    shared.sums.Put(lane, row, sum);
  }
}

// Of a multiprocessor at once. More would have too few registers.
template <class Step>
constexpr int kBlocks = 8;
template <>
constexpr int kBlocks<Float32Step> = 7;
template <>
constexpr int kBlocks<Float16Step> = 7;

template <class Step, int kRows>
__global__ void __launch_bounds__(kUpdateThreads, kBlocks<Step>)
    UpdateKernel(StepTable step, MambaUpdateArguments arguments) {
  using Product = BlockProductOf<Step>;
  const SelectiveScanArguments& scan = arguments.scan;
  auto& shared = *DynamicShared<Shared<kRows>>();
  unsigned char* const factors =
      DynamicShared<unsigned char>() + sizeof(Shared<kRows>);
  const int64_t first_channel = int64_t{blockIdx.x} * kUpdateChannels;
  const UpdateLane lane = ThisUpdateLane();
  const UpdateValue value = ThisUpdateValue();
  const int64_t value_channel = first_channel + value.block_channel;
  Product::CopyWeight(arguments.dt_proj, first_channel, kRows, factors);
  States<kRows> states;
  const int64_t channel = first_channel + lane.block_channel;
  states.part =
      QuarterStatesOf(scan.d_state, lane.quarter, channel < scan.d_inner);
  states.first = states.part.first * scan.d_inner + channel;
  LoadA(scan, states);
  GridWait();
  GridTrigger();
  const UpdateRows<kRows>& rows = shared.rows;
  shared.rows.Put(step, int64_t{blockIdx.y} * kRows);
  LoadStates(scan, rows, states);
  const bool has_value = rows.Feeds(value) && value_channel < scan.d_inner;
  float x = 0.0f, z = 0.0f;
  if (has_value) {
    const int64_t token = rows[value.row].token;
    x = Load(At(scan.x, token, value_channel));
    z = Load(At(scan.z, token, value_channel));
  }
  PutLines(scan, rows, shared);
  Product::PutTokens(
      arguments.dt_proj, kRows,
      [&](int row) {
        return rows[row].feeds ? rows[row].token : arguments.dt_proj.tokens;
      },
      factors);
  BlockBarrier();
  float dt =
      Product::template Sum<kRows>(arguments.dt_proj, first_channel, factors);
  if (has_value) {
    const float* const bias = arguments.dt_proj.options.bias;
    if (bias != nullptr) dt = dt + LoadConstant(bias + value_channel);
    shared.x[value.Place()] = x;
    shared.delta[value.Place()] = SelectiveDelta(scan, dt, value_channel);
  }
  const float gate = Silu(z);
  BlockBarrier();
  Advance(rows, lane, shared, states);
  StoreStates(scan, rows, states);
  BlockBarrier();
  if (has_value) {
    Store(At(scan.y, rows[value.row].token, value_channel),
          SelectiveOutput(x, LoadConstant(scan.d + value_channel),
                          shared.sums.Of(value), gate));
  }
}

template <class Step, int kRows>
cudaError_t LaunchUpdate(cudaStream_t stream, const StepTable& step,
                         const MambaUpdateArguments& arguments) {
  return Launch({UpdateGrid(arguments.scan.d_inner, step.row_count, kRows),
                 dim3(kUpdateThreads),
                 static_cast<size_t>(sizeof(Shared<kRows>) +
                                     BlockProductOf<Step>::SharedBytes(
                                         arguments.dt_proj.weight, kRows))},
                stream, UpdateKernel<Step, kRows>, step, arguments);
}

template <class Step>
cudaError_t LaunchFor(cudaStream_t stream, const StepTable& step,
                      const MambaUpdateArguments& arguments) {
  constexpr int kFewRows = 8;
  return step.row_count <= kFewRows
             ? LaunchUpdate<Step, 1>(stream, step, arguments)
             : LaunchUpdate<Step, 4>(stream, step, arguments);
}

bool IsForOneKernel(const StepTable& step,
                    const MambaUpdateArguments& arguments) {
  return step.longest_row <= 1 &&
         arguments.scan.d_state <= kLaneStates * kScanQuarters &&
         HasBlockProduct(arguments.dt_proj.weight);
}

}  // namespace

cudaError_t MambaUpdate(cudaStream_t stream, const StepTable& step,
                        const MambaUpdateArguments& arguments) {
  if (step.row_count == 0) return cudaSuccess;
  if (!IsForOneKernel(step, arguments)) {
    const cudaError_t error = Product(stream, arguments.dt_proj);
    if (error != cudaSuccess) return error;
    return SelectiveScan(stream, step, arguments.scan);
  }
  switch (arguments.dt_proj.weight.format) {
    case WeightFormat::kFloat32:
      return LaunchFor<Float32Step>(stream, step, arguments);
    case WeightFormat::kBFloat16:
      return LaunchFor<BFloat16Step>(stream, step, arguments);
    case WeightFormat::kFloat16:
      return LaunchFor<Float16Step>(stream, step, arguments);
    case WeightFormat::kInt8:
    case WeightFormat::kInt4:
      break;  // have no block's product
  }
  return cudaErrorInvalidValue;
}

}  // namespace engram::cuda

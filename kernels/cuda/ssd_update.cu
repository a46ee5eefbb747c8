// A block has a row by 64 channels of a head, and 128 threads: each has 4
// channels by an eighth of the states, up to 64 floats that come by 16 loads of
// 16 bytes and are all on their way at once. 5 blocks have a multiprocessor:
// 160 KB of states. A warp moves them in pieces of 64 bytes.
#include <cmath>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/ssd_lanes.h"
#include "kernels/cuda/ssd_scan.h"
#include "kernels/cuda/ssd_step.h"
#include "kernels/cuda/ssd_update.h"

namespace engram::cuda {
namespace {

constexpr int kThreads = kSsdThreads;
constexpr int kLaneChannels = 4;
constexpr int kLaneStates = kSsdLaneStates;
// From one eighth to the next in shared memory: so the lanes of eight, which
// load four floats each, meet all banks.
constexpr int kEighthFloats = kLaneStates + 4;

struct Shared {
  // State i of eighth e at e kEighthFloats + i; zero where there is none.
  float b[kSsdEighths * kEighthFloats];
  float c[kSsdEighths * kEighthFloats];
};

// Four neighbouring floats of which `count` exist. kAligned: all or none, at a
// multiple of 16 bytes.
template <bool kAligned>
__device__ float4 LoadFour(const float* source, int count) {
  if constexpr (kAligned) {
    return LoadStream(reinterpret_cast<const float4*>(source));
  }
  return {count > 0 ? LoadStream(source) : 0.0f,
          count > 1 ? LoadStream(source + 1) : 0.0f,
          count > 2 ? LoadStream(source + 2) : 0.0f,
          count > 3 ? LoadStream(source + 3) : 0.0f};
}
template <bool kAligned>
__device__ void StoreFour(float* target, int count, float4 values) {
  if constexpr (kAligned) {
    StoreStream(reinterpret_cast<float4*>(target), values);
    return;
  }
  if (count > 0) StoreStream(target, values.x);
  if (count > 1) StoreStream(target + 1, values.y);
  if (count > 2) StoreStream(target + 2, values.z);
  if (count > 3) StoreStream(target + 3, values.w);
}

// b and c of the head's group, a state to each thread.
__device__ void PutLines(const SsdScanArguments& scan, const SsdPart& part,
                         int64_t token, Shared& shared) {
  const int eighth = threadIdx.x / kLaneStates;
  const int i = threadIdx.x % kLaneStates;
  const int64_t share = StatesOfAnEighth(scan);
  const int64_t state = eighth * share + i;
  const bool exists = i < share && state < scan.d_state;
  const int64_t column = GroupOf(scan, part.head) * scan.d_state + state;
  const int place = eighth * kEighthFloats + i;
  shared.b[place] = exists ? Load(At(scan.b, token, column)) : 0.0f;
  shared.c[place] = exists ? Load(At(scan.c, token, column)) : 0.0f;
}

__device__ void Advance(float decay, float4 delta_x, float b, float c,
                        float4& h, float4& sum) {
  AdvanceSsd(decay, delta_x.x, b, c, h.x, sum.x);
  AdvanceSsd(decay, delta_x.y, b, c, h.y, sum.y);
  AdvanceSsd(decay, delta_x.z, b, c, h.z, sum.z);
  AdvanceSsd(decay, delta_x.w, b, c, h.w, sum.w);
}

__device__ float4 SumsOver(const HeadStep& head, float4 x, int eighth,
                           const Shared& shared, float4 (&h)[kLaneStates]) {
  const float4 delta_x = {x.x * head.delta, x.y * head.delta, x.z * head.delta,
                          x.w * head.delta};
  float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < kLaneStates; i += 4) {
    const int place = eighth * kEighthFloats + i;
    const float4 b = *reinterpret_cast<const float4*>(shared.b + place);
    const float4 c = *reinterpret_cast<const float4*>(shared.c + place);
    Advance(head.decay, delta_x, b.x, c.x, h[i], sum);
    Advance(head.decay, delta_x, b.y, c.y, h[i + 1], sum);
    Advance(head.decay, delta_x, b.z, c.z, h[i + 2], sum);
    Advance(head.decay, delta_x, b.w, c.w, h[i + 3], sum);
  }
  return {SumOfEighths(sum.x), SumOfEighths(sum.y), SumOfEighths(sum.z),
          SumOfEighths(sum.w)};
}

// A token of the thread's states. The eighth e < 4 has x, gate and y of channel
// e of the four.
__device__ void UpdateStates(const SsdUpdateArguments& arguments,
                             const SsdPart& part, int64_t token,
                             float4 (&h)[kLaneStates]) {
  const SsdScanArguments& scan = arguments.scan;
  auto& shared = *DynamicShared<Shared>();
  const int64_t channel =
      part.head * scan.head_dim + part.channel + part.eighth;
  const bool has_value = part.eighth < part.channels;
  const float own_x = has_value ? Load(At(scan.x, token, channel)) : 0.0f;
  const float z = has_value ? Load(At(arguments.z, token, channel)) : 0.0f;
  const float dt = Load(At(scan.dt, token, part.head));
  PutLines(scan, part, token, shared);
  const HeadStep head = HeadStepOf(scan, dt, part.head);
  const int first_lane = threadIdx.x % 32 / kSsdEighths * kSsdEighths;
  const float4 x = {
      ShuffleFrom(own_x, first_lane), ShuffleFrom(own_x, first_lane + 1),
      ShuffleFrom(own_x, first_lane + 2), ShuffleFrom(own_x, first_lane + 3)};
  BlockBarrier();
  const float4 sums = SumsOver(head, x, part.eighth, shared, h);
  if (!has_value) return;
  const float sum = part.eighth == 0   ? sums.x
                    : part.eighth == 1 ? sums.y
                    : part.eighth == 2 ? sums.z
                                       : sums.w;
  const float y = SsdOutput(own_x, LoadConstant(scan.d + part.head), sum);
  Store(At(scan.y, token, channel), y * Silu(z));
}

template <bool kAligned>
__global__ void __launch_bounds__(kThreads, 5)
    UpdateKernel(StepTable step, SsdUpdateArguments arguments) {
  GridWait();
  GridTrigger();
  const SsdScanArguments& scan = arguments.scan;
  const StepRow row = RowAt(step, blockIdx.y);
  if (row.tokens == 0 && row.slot_in == row.slot_out) return;
  const SsdPart part = ThisSsdPart<kLaneChannels>(scan);
  const float* const in = StatesOf(scan, part, row.slot_in);
  float4 h[kLaneStates];
#pragma unroll
  for (int i = 0; i < kLaneStates; ++i) {
    h[i] = i < part.states
               ? LoadFour<kAligned>(in + i * scan.head_dim, part.channels)
               : float4{0.0f, 0.0f, 0.0f, 0.0f};
  }
  if (row.tokens > 0) UpdateStates(arguments, part, row.offset, h);
  float* const out = StatesOf(scan, part, row.slot_out);
#pragma unroll
  for (int i = 0; i < kLaneStates; ++i) {
    if (i < part.states) {
      StoreFour<kAligned>(out + i * scan.head_dim, part.channels, h[i]);
    }
  }
}

// Whether every thread's states of every slot begin at multiples of 16 bytes.
bool AreStatesAligned(const SsdScanArguments& scan) {
  return scan.head_dim % 4 == 0 && AreFoursAligned(scan.ssm_state);
}

}  // namespace

cudaError_t SsdUpdate(cudaStream_t stream, const StepTable& step,
                      const SsdUpdateArguments& arguments) {
  if (step.row_count == 0) return cudaSuccess;
  const SsdScanArguments& scan = arguments.scan;
  if (step.longest_row > 1 || scan.d_state > kSsdEighths * kLaneStates) {
    const cudaError_t error = SsdScan(stream, step, scan);
    if (error != cudaSuccess) return error;
    GatedNormArguments gate;
    gate.tokens = step.token_count;
    gate.d_inner = scan.heads * scan.head_dim;
    gate.y = scan.y;
    gate.z = arguments.z;
    gate.normed = scan.y;
    return GatedNorm(stream, gate);
  }
  const LaunchShape shape = {SsdGrid<kLaneChannels>(scan, step.row_count),
                             dim3(kThreads), sizeof(Shared)};
  return AreStatesAligned(scan)
             ? Launch(shape, stream, UpdateKernel<true>, step, arguments)
             : Launch(shape, stream, UpdateKernel<false>, step, arguments);
}

}  // namespace engram::cuda

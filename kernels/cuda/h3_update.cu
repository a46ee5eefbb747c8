// A block has 32 channels of one row, or of two from nine rows on, and 128
// threads (update_lanes.h). The filter comes before the kernels in front are
// done. The rows' inputs of earlier tokens go to shared memory without
// registers, 16 KB of two rows of 64 taps, and as many bytes of diagonal states
// are asked for, 32 loads of a thread, before either of them is waited for. 4
// blocks have a multiprocessor: 128 KB on their way.
#include <cmath>

#include "kernels/cuda/device.h"
#include "kernels/cuda/diagonal_scan.h"
#include "kernels/cuda/diagonal_step.h"
#include "kernels/cuda/h3_update.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/shift_multiply.h"
#include "kernels/cuda/shift_step.h"
#include "kernels/cuda/update_lanes.h"

namespace engram::cuda {
namespace {

constexpr int kLanePairs = 8;
constexpr int64_t kMaxTaps = 128;

// Behind it lie the filter [taps, 32] and the rows' rings [taps - 1, 32].
template <int kRows>
struct Shared {
  UpdateRows<kRows> rows;
  float p[kRows * kUpdateChannels];
  UpdateSums<kRows> sums;
};

template <int kRows>
__device__ float* SharedFilter() {
  return reinterpret_cast<float*>(DynamicShared<Shared<kRows>>() + 1);
}
template <int kRows>
__device__ float* SharedRing(int64_t taps, int row) {
  return SharedFilter<kRows>() +
         (taps + row * (taps - 1)) * int64_t{kUpdateChannels};
}
template <int kRows>
size_t SharedBytes(int64_t taps) {
  return sizeof(Shared<kRows>) +
         (taps + kRows * (taps - 1)) * kUpdateChannels * sizeof(float);
}

// The block's channels of `lines` rows of a matrix [lines, channels], to be
// waited for by AsyncWait<0> and a barrier. kAligned: four channels lie
// together at a multiple of 16 bytes, and all of them exist or none.
template <bool kAligned>
__device__ void CopyLines(const float* source, int64_t channels, int lines,
                          float* target) {
  const int64_t first_channel = int64_t{blockIdx.x} * kUpdateChannels;
  constexpr int kWidth = kAligned ? 4 : 1;
  constexpr int kParts = kUpdateChannels / kWidth;
  for (int i = threadIdx.x; i < lines * kParts; i += kUpdateThreads) {
    const int line = i / kParts, column = i % kParts * kWidth;
    if (first_channel + column >= channels) continue;
    const float* const from = source + line * channels + first_channel + column;
    float* const to = target + line * kUpdateChannels + column;
    if constexpr (kAligned) {
      AsyncCopy16(to, from);
    } else {
      *to = Load(from);
    }
  }
}

// A thread's pairs of every row.
template <int kRows>
struct Pairs {
  QuarterStates part;
  int64_t first;  // place of the first in a slot's share
  Complex decay[kLanePairs];
  Complex read[kLanePairs];
  Complex h[kRows][kLanePairs];
};

template <int kRows>
__device__ void LoadWeights(const DiagonalScanArguments& scan,
                            Pairs<kRows>& pairs) {
#pragma unroll
  for (int i = 0; i < kLanePairs; ++i) {
    const int64_t place = pairs.first + i * 2 * scan.channels;
    pairs.decay[i] = pairs.read[i] = {0.0f, 0.0f};
    if (i < pairs.part.count) {
      pairs.decay[i] = LoadPairWeight(scan.decay + place, scan.channels);
      pairs.read[i] = LoadPairWeight(scan.read + place, scan.channels);
    }
  }
}

template <int kRows>
__device__ void LoadStates(const DiagonalScanArguments& scan,
                           const UpdateRows<kRows>& rows, Pairs<kRows>& pairs) {
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const float* const in =
        ShareAt(scan.diagonal_state, rows[row].slot_in) + pairs.first;
#pragma unroll
    for (int i = 0; i < kLanePairs; ++i) {
      pairs.h[row][i] = {0.0f, 0.0f};
      if (rows[row].Moves() && i < pairs.part.count) {
        pairs.h[row][i] =
            LoadPairState(in + i * 2 * scan.channels, scan.channels);
      }
    }
  }
}

template <int kRows>
__device__ void StoreStates(const DiagonalScanArguments& scan,
                            const UpdateRows<kRows>& rows,
                            const Pairs<kRows>& pairs) {
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    float* const out =
        ShareAt(scan.diagonal_state, rows[row].slot_out) + pairs.first;
#pragma unroll
    for (int i = 0; i < kLanePairs; ++i) {
      if (rows[row].Moves() && i < pairs.part.count) {
        StorePairState(out + i * 2 * scan.channels, scan.channels,
                       pairs.h[row][i]);
      }
    }
  }
}

// A token of the diagonal states of every row.
template <int kRows>
__device__ void Advance(const UpdateLane& lane, Shared<kRows>& shared,
                        Pairs<kRows>& pairs) {
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    if (!shared.rows[row].feeds) continue;
    const float p = shared.p[row * kUpdateChannels + lane.block_channel];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kLanePairs; ++i) {
      AdvanceDiagonal(p, pairs.decay[i], pairs.read[i], pairs.h[row][i], sum);
    }
    shared.sums.Put(lane, row, sum);
  }
}

// p of a row and channel, from the ring, whose oldest input has the place that
// the newest, k, is to have.
template <int kRows>
__device__ float Shifted(int64_t taps, const UpdateValue& value, int64_t place,
                         float k, float v) {
  const float* const filter = SharedFilter<kRows>() + value.block_channel;
  const float* const ring =
      SharedRing<kRows>(taps, value.row) + value.block_channel;
  const int inputs = static_cast<int>(taps - 1);
  int at = static_cast<int>(place);
  float sum = 0.0f;
#pragma unroll 8
  for (int tap = 0; tap < inputs; ++tap) {
    sum =
        AddTap(filter[tap * kUpdateChannels], ring[at * kUpdateChannels], sum);
    at = at + 1 == inputs ? 0 : at + 1;
  }
  return ShiftOutput(AddTap(filter[inputs * kUpdateChannels], k, sum), v);
}

// Leaves a row's earlier inputs, all but the one that `k` takes the place of,
// where another slot has to have them.
template <int kRows>
__device__ void KeepInputs(const ShiftMultiplyArguments& shift,
                           const UpdateRow& row, int index,
                           const UpdateLane& lane) {
  if (row.slot_in == row.slot_out) return;
  const int64_t inputs = shift.taps - 1;
  const int64_t channel =
      int64_t{blockIdx.x} * kUpdateChannels + lane.block_channel;
  if (channel >= shift.channels || inputs == 0) return;
  const int64_t fresh = row.feeds ? row.position % inputs : -1;
  const float* const ring =
      SharedRing<kRows>(shift.taps, index) + lane.block_channel;
  float* const out = ShareAt(shift.shift_state, row.slot_out) + channel;
  for (int64_t place = lane.quarter; place < inputs; place += kScanQuarters) {
    if (place == fresh) continue;
    StoreStream(out + place * shift.channels, ring[place * kUpdateChannels]);
  }
}

template <bool kAligned, int kRows>
__device__ void CopyRings(const ShiftMultiplyArguments& shift,
                          const UpdateRows<kRows>& rows) {
  for (int row = 0; row < kRows; ++row) {
    if (!rows[row].Moves()) continue;
    CopyLines<kAligned>(ShareAt(shift.shift_state, rows[row].slot_in),
                        shift.channels, static_cast<int>(shift.taps - 1),
                        SharedRing<kRows>(shift.taps, row));
  }
  AsyncCommit();
}

// What a thread has of its row and channel at the token.
struct TokenValues {
  float k = 0.0f, v = 0.0f, gate = 1.0f;
};

__device__ TokenValues LoadValues(const H3UpdateArguments& arguments,
                                  int64_t token, int64_t channel) {
  TokenValues values;
  values.k = Load(At(arguments.shift.k, token, channel));
  values.v = Load(At(arguments.shift.v, token, channel));
  if (arguments.scan.gate.data != nullptr) {
    values.gate = Load(At(arguments.scan.gate, token, channel));
  }
  return values;
}

// p of the row and channel, and the input that stays of it.
template <int kRows>
__device__ float ShiftToken(const ShiftMultiplyArguments& shift,
                            const UpdateRow& row, const UpdateValue& value,
                            int64_t channel, const TokenValues& values) {
  const int64_t inputs = shift.taps - 1;
  const int64_t place = inputs == 0 ? 0 : row.position % inputs;
  const float p = Shifted<kRows>(shift.taps, value, place, values.k, values.v);
  if (inputs > 0) {
    Store(ShareAt(shift.shift_state, row.slot_out) + place * shift.channels +
              channel,
          values.k);
  }
  return p;
}

template <bool kAligned, int kRows>
__global__ void __launch_bounds__(kUpdateThreads, 4)
    UpdateKernel(StepTable step, H3UpdateArguments arguments) {
  const ShiftMultiplyArguments& shift = arguments.shift;
  const DiagonalScanArguments& scan = arguments.scan;
  auto& shared = *DynamicShared<Shared<kRows>>();
  const UpdateRows<kRows>& rows = shared.rows;
  const int64_t first_channel = int64_t{blockIdx.x} * kUpdateChannels;
  const UpdateLane lane = ThisUpdateLane();
  const UpdateValue value = ThisUpdateValue();
  const int64_t value_channel = first_channel + value.block_channel;
  CopyLines<kAligned>(shift.filter, shift.channels,
                      static_cast<int>(shift.taps), SharedFilter<kRows>());
  const int64_t channel = first_channel + lane.block_channel;
  Pairs<kRows> pairs;
  pairs.part =
      QuarterStatesOf(scan.pairs, lane.quarter, channel < scan.channels);
  pairs.first = pairs.part.first * 2 * scan.channels + channel;
  LoadWeights(scan, pairs);
  GridWait();
  GridTrigger();
  shared.rows.Put(step, int64_t{blockIdx.y} * kRows);
  CopyRings<kAligned>(shift, rows);
  LoadStates(scan, rows, pairs);
  const bool has_value = rows.Feeds(value) && value_channel < scan.channels;
  TokenValues values;
  if (has_value) {
    values = LoadValues(arguments, rows[value.row].token, value_channel);
  }
  AsyncWait<0>();
  BlockBarrier();
  float p = 0.0f;
  if (has_value) {
    p = ShiftToken<kRows>(shift, rows[value.row], value, value_channel, values);
    shared.p[value.Place()] = p;
  }
  for (int row = 0; row < kRows; ++row) {
    KeepInputs<kRows>(shift, rows[row], row, lane);
  }
  BlockBarrier();
  Advance(lane, shared, pairs);
  StoreStates(scan, rows, pairs);
  BlockBarrier();
  if (has_value) {
    const float y = DiagonalOutput(
        scan, p, LoadConstant(scan.d + value_channel), shared.sums.Of(value));
    Store(At(scan.y, rows[value.row].token, value_channel),
          scan.gate.data == nullptr ? y : y * values.gate);
  }
}

template <bool kAligned>
cudaError_t LaunchFor(cudaStream_t stream, const StepTable& step,
                      const H3UpdateArguments& arguments) {
  constexpr int kFewRows = 8;
  const int64_t channels = arguments.scan.channels;
  const int64_t taps = arguments.shift.taps;
  return step.row_count <= kFewRows
             ? Launch({UpdateGrid(channels, step.row_count, 1),
                       dim3(kUpdateThreads), SharedBytes<1>(taps)},
                      stream, UpdateKernel<kAligned, 1>, step, arguments)
             : Launch({UpdateGrid(channels, step.row_count, 2),
                       dim3(kUpdateThreads), SharedBytes<2>(taps)},
                      stream, UpdateKernel<kAligned, 2>, step, arguments);
}

// Whether four channels of the filter and of every slot lie at multiples of 16
// bytes.
bool AreLinesAligned(const ShiftMultiplyArguments& shift) {
  return shift.channels % 4 == 0 && AreFoursAligned(shift.filter) &&
         AreFoursAligned(shift.shift_state);
}

}  // namespace

cudaError_t H3Update(cudaStream_t stream, const StepTable& step,
                     const H3UpdateArguments& arguments) {
  if (step.row_count == 0) return cudaSuccess;
  if (step.longest_row > 1 || arguments.shift.taps > kMaxTaps ||
      arguments.scan.pairs > kScanQuarters * kLanePairs) {
    const cudaError_t error = ShiftMultiply(stream, step, arguments.shift);
    if (error != cudaSuccess) return error;
    DiagonalScanArguments scan = arguments.scan;
    scan.p = arguments.shift.p;
    return DiagonalScan(stream, step, scan);
  }
  return AreLinesAligned(arguments.shift)
             ? LaunchFor<true>(stream, step, arguments)
             : LaunchFor<false>(stream, step, arguments);
}

}  // namespace engram::cuda

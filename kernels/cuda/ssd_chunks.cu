// A block has a row by 32 channels of a head and goes through the row's whole
// chunks of 64 tokens. With L(t) = Σ Δ a up to token t of the chunk, S the
// states [channel, state] before it, and products of matrices:
//   y(t)  = exp(L(t)) C(t) Sᵀ + Σ_{u <= t} C(t)·B(u) exp(L(t) - L(u)) Δ(u) x(u)
//           + d x(t)
//   S    <- exp(L(63)) S + Σ_u exp(L(63) - L(u)) Δ(u) x(u) B(u)ᵀ
// Source: Mamba-2, arXiv 2405.21060, section 6.
//
// Four warps: each has 16 tokens of y, and a quarter of 128 states, all
// channels, of S, which stays in registers from chunk to chunk. B, x and S lie
// in shared memory; C goes from global memory into the registers of the one
// warp that multiplies its tokens; the masked products of C and B go from one
// product's sums into the next one's factors. dt and x of a chunk are fetched
// while the one before is multiplied, B by eights of loads when it is through.
//
// Order. Products are those of halves_product.h, by steps of 16 of what is
// summed over, ascending. C Sᵀ is scaled in float32 before the sum over u goes
// on in it, S before its sum. L is summed in float64, pairs of tokens as a tree
// over lanes, and kept as the nearest float32 and what is left, so that
// differences are exact however far a head decays; a weight is exp of a
// difference, 0 below -87. Products above the diagonal are not computed by
// steps of 16, and are 0 within them: what is not finite in a token reaches
// those before it in its chunk, whose row is broken anyway.
//
// Memory: as ssd_scan.cu, the state once per row, and once more C Bᵀ for each
// 32 channels. Tensor-core steps of a chunk of 32 channels and 128 states:
// 1,824, against 512 K fused multiply-adds of the recurrence.
#include "kernels/cuda/activations.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/halves_product.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_chunks.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/ssd_chunks.h"
#include "kernels/cuda/ssd_step.h"

namespace engram::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kWarpTokens = kChunkTokens / kWarps;
constexpr int kChannels = 32;  // of a block
constexpr int kMostStates = 128;
constexpr int kWarpStates = kMostStates / kWarps;
constexpr int kStep = 16;  // of a product, in what it sums over
// Values from one row to the next in shared memory. Eight-byte loads of rows of
// states and turned loads of rows of channels meet all banks alike.
constexpr int kStateStride = kMostStates + 16;
constexpr int kChannelStride = kChannels + 8;

static_assert(kWarpTokens == kStep);

struct TokenStep {
  float delta;
  float log_decay;       // of the chunk's tokens up to this one
  float log_decay_rest;  // what float32 leaves of it
};

struct SharedChunk {
  Halves<kChunkTokens, kStateStride> b;        // [token, state]
  Halves<kChannels, kStateStride> states;      // [channel, state]
  Halves<kChunkTokens, kChannelStride> x;      // [token, channel]
  Halves<kChunkTokens, kChannelStride> added;  // x as the states take it
  TokenStep steps[kChunkTokens];
};

// Which part of a row a thread has.
struct Part {
  int64_t head;
  int64_t first_channel;  // of the block, in the head
  int channels;           // of the block
  int64_t first_state;    // of the head's group, in b and c
  int states;             // of the head
  int state_steps;
  int warp;
  int group;  // of the lane: its row of factors and sums
  int quad;
};

__device__ Part ThisPart(const SsdScanArguments& arguments) {
  const int64_t blocks = (arguments.head_dim + kChannels - 1) / kChannels;
  const int thread = static_cast<int>(threadIdx.x);
  Part part;
  part.head = blockIdx.x / blocks;
  part.first_channel = blockIdx.x % blocks * kChannels;
  const int64_t left = arguments.head_dim - part.first_channel;
  part.channels = left < kChannels ? static_cast<int>(left) : kChannels;
  part.first_state = GroupOf(arguments, part.head) * arguments.d_state;
  part.states = static_cast<int>(arguments.d_state);
  part.state_steps = (part.states + kStep - 1) / kStep;
  part.warp = thread / 32;
  part.group = thread % 32 / 4;
  part.quad = thread % 4;
  return part;
}

// How b, c and x lie: whether four values at a multiple of four from where a
// head's or group's begin can be loaded at once.
struct Alignment {
  bool states;
  bool channels;
};

__device__ float2 LoadSteps(const SsdScanArguments& arguments, const Part& part,
                            int64_t token) {
  const int64_t own = token + threadIdx.x % 32 * 2;
  return {Load(At(arguments.dt, own, part.head)),
          Load(At(arguments.dt, own + 1, part.head))};
}

__device__ TokenStep StepOf(float delta, double log_decay) {
  const float nearest = static_cast<float>(log_decay);
  return {delta, nearest, static_cast<float>(log_decay - nearest)};
}

// By one warp, two tokens a lane.
__device__ void PutSteps(const SsdScanArguments& arguments, const Part& part,
                         float2 dt, SharedChunk& chunk) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float first = SsdDelta(arguments, dt.x, part.head);
  const float second = SsdDelta(arguments, dt.y, part.head);
  const double a = LoadConstant(arguments.a + part.head);
  const double of_second = a * static_cast<double>(second);
  double sum = a * static_cast<double>(first) + of_second;
  for (int delta = 1; delta < 32; delta *= 2) {
    const double before = ShuffleUp(sum, delta);
    if (lane >= delta) sum = before + sum;
  }
  chunk.steps[2 * lane] = StepOf(first, sum - of_second);
  chunk.steps[2 * lane + 1] = StepOf(second, sum);
}

// What is left at token `to` of what came in at `from`, or before the chunk.
__device__ float DecayBetween(const TokenStep& from, const TokenStep& to) {
  return Exp((to.log_decay - from.log_decay) +
             (to.log_decay_rest - from.log_decay_rest));
}

__device__ void PutStates(const SsdScanArguments& arguments, const Part& part,
                          int64_t token, bool aligned, SharedChunk& chunk) {
  constexpr int kRowFours = kMostStates / 4;
  constexpr int kTogether = 8;
  const int column = static_cast<int>(threadIdx.x) % kRowFours * 4;
  if (column >= part.state_steps * kStep) return;
  for (int first = static_cast<int>(threadIdx.x) / kRowFours;
       first < kChunkTokens; first += kTogether * kThreads / kRowFours) {
    const auto row = [first](int i) {
      return first + i * (kThreads / kRowFours);
    };
    float4 b[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      b[i] =
          LoadFour(At(arguments.b, token + row(i), part.first_state + column),
                   part.states - column, aligned);
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      chunk.b.Put(row(i), column, HalvesOf(b[i].x, b[i].y));
      chunk.b.Put(row(i), column + 2, HalvesOf(b[i].z, b[i].w));
    }
  }
}

// A thread's share of x of a chunk: four channels of each of its places.
struct FetchedChannels {
  static constexpr int kRowFours = kChannels / 4;
  static constexpr int kFours = kChunkTokens * kRowFours / kThreads;
  float4 x[kFours];

  __device__ static int Row(int i) {
    return (i * kThreads + static_cast<int>(threadIdx.x)) / kRowFours;
  }
  __device__ static int Column() {
    return static_cast<int>(threadIdx.x) % kRowFours * 4;
  }
};

__device__ FetchedChannels LoadChannels(const SsdScanArguments& arguments,
                                        const Part& part, int64_t token,
                                        bool aligned) {
  const int column = FetchedChannels::Column();
  const int64_t channel =
      part.head * arguments.head_dim + part.first_channel + column;
  FetchedChannels fetched;
#pragma unroll
  for (int i = 0; i < FetchedChannels::kFours; ++i) {
    fetched.x[i] =
        LoadFour(At(arguments.x, token + FetchedChannels::Row(i), channel),
                 part.channels - column, aligned);
  }
  return fetched;
}

__device__ void PutChannels(const FetchedChannels& fetched,
                            SharedChunk& chunk) {
  const TokenStep last = chunk.steps[kChunkTokens - 1];
  const int column = FetchedChannels::Column();
#pragma unroll
  for (int i = 0; i < FetchedChannels::kFours; ++i) {
    const int row = FetchedChannels::Row(i);
    const float4 x = fetched.x[i];
    chunk.x.Put(row, column, HalvesOf(x.x, x.y));
    chunk.x.Put(row, column + 2, HalvesOf(x.z, x.w));
    const TokenStep step = chunk.steps[row];
    const float weight = DecayBetween(step, last) * step.delta;
    chunk.added.Put(row, column, HalvesOf(weight * x.x, weight * x.y));
    chunk.added.Put(row, column + 2, HalvesOf(weight * x.z, weight * x.w));
  }
}

// A warp's states of all channels of the block, as sums of a product: channels
// 16 m + group (and 8 further), states 8 n + 2 quad (and 1 further).
struct WarpStates {
  static constexpr int kRowTiles = kChannels / 16;
  static constexpr int kColumnTiles = kWarpStates / 8;
  float sums[kRowTiles][kColumnTiles][4];
};

// Calls body(value, channel of the block, state of the head) for all values
// that exist.
template <class Body>
__device__ void EachState(const Part& part, WarpStates& states,
                          const Body& body) {
#pragma unroll
  for (int m = 0; m < WarpStates::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < WarpStates::kColumnTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int channel = m * 16 + part.group + i / 2 * 8;
        const int state =
            part.warp * kWarpStates + n * 8 + part.quad * 2 + i % 2;
        if (channel < part.channels && state < part.states) {
          body(states.sums[m][n][i], channel, state);
        }
      }
    }
  }
}

__device__ void PutWarpStates(const Part& part, const WarpStates& states,
                              SharedChunk& chunk) {
#pragma unroll
  for (int m = 0; m < WarpStates::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < WarpStates::kColumnTiles; ++n) {
      const float(&sums)[4] = states.sums[m][n];
      const int channel = m * 16 + part.group;
      const int state = part.warp * kWarpStates + n * 8 + part.quad * 2;
      chunk.states.Put(channel, state, HalvesOf(sums[0], sums[1]));
      chunk.states.Put(channel + 8, state, HalvesOf(sums[2], sums[3]));
    }
  }
}

// c of a step of states and of the lane's two tokens. Lane q of four has the
// states 4 q to 4 q + 3 of it, as it has of b and of the scan's states.
__device__ LeftFactor LoadC(const SsdScanArguments& arguments, const Part& part,
                            int64_t token, int step, bool aligned) {
  const int column = step * kStep + part.quad * 4;
  LeftFactor c;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float4 four = LoadFour(
        At(arguments.c, token + part.warp * kWarpTokens + part.group + half * 8,
           part.first_state + column),
        part.states - column, aligned);
    const PairHalves first = HalvesOf(four.x, four.y),
                     second = HalvesOf(four.z, four.w);
    c.high[half] = first.high;
    c.low[half] = first.low;
    c.high[half + 2] = second.high;
    c.low[half + 2] = second.low;
  }
  return c;
}

// A step of states of rows first + group in shared memory.
template <int kRows>
__device__ RightFactor StatesOf(const Halves<kRows, kStateStride>& rows,
                                const Part& part, int first, int step) {
  const int at =
      (first + part.group) * kStateStride + step * kStep + part.quad * 4;
  const uint2 high = *reinterpret_cast<const uint2*>(rows.high + at);
  const uint2 low = *reinterpret_cast<const uint2*>(rows.low + at);
  return {{high.x, high.y}, {low.x, low.y}};
}

// y of a warp's 16 tokens, and their products with b of the chunk's.
struct WarpOutputs {
  static constexpr int kChannelTiles = kChannels / 8;
  static constexpr int kTokenTiles = kChunkTokens / 8;
  float y[kChannelTiles][4];
  float products[kTokenTiles][4];
};

// y = C Sᵀ, products = C Bᵀ up to the warp's last token.
__device__ void MultiplyC(const SsdScanArguments& arguments, const Part& part,
                          int64_t token, bool aligned, const SharedChunk& chunk,
                          WarpOutputs& outputs) {
  outputs = {};
  LeftFactor c = LoadC(arguments, part, token, 0, aligned);
  for (int step = 0; step < part.state_steps; ++step) {
    const LeftFactor next =
        step + 1 < part.state_steps
            ? LoadC(arguments, part, token, step + 1, aligned)
            : c;
#pragma unroll
    for (int tile = 0; tile < WarpOutputs::kChannelTiles; ++tile) {
      AddProduct(outputs.y[tile], c,
                 StatesOf(chunk.states, part, tile * 8, step));
    }
#pragma unroll
    for (int tile = 0; tile < WarpOutputs::kTokenTiles; ++tile) {
      if (tile > 2 * part.warp + 1) continue;
      AddProduct(outputs.products[tile], c,
                 StatesOf(chunk.b, part, tile * 8, step));
    }
    c = next;
  }
}

// Scales y and weights the products, which are 0 of tokens that come later.
__device__ void Decay(const Part& part, const SharedChunk& chunk,
                      WarpOutputs& outputs) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = part.warp * kWarpTokens + part.group + half * 8;
    const TokenStep to = chunk.steps[token];
    const float from_before = DecayBetween({}, to);
#pragma unroll
    for (int tile = 0; tile < WarpOutputs::kChannelTiles; ++tile) {
      outputs.y[tile][half * 2] *= from_before;
      outputs.y[tile][half * 2 + 1] *= from_before;
    }
#pragma unroll
    for (int tile = 0; tile < WarpOutputs::kTokenTiles; ++tile) {
      if (tile > 2 * part.warp + 1) continue;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int source = tile * 8 + part.quad * 2 + i;
        float& product = outputs.products[tile][half * 2 + i];
        const TokenStep from = chunk.steps[source];
        product = source <= token
                      ? product * (DecayBetween(from, to) * from.delta)
                      : 0.0f;
      }
    }
  }
}

// y += products x, whose sums are laid out as factors are.
__device__ void AddTokens(const Part& part, const SharedChunk& chunk,
                          WarpOutputs& outputs) {
#pragma unroll
  for (int step = 0; step < kChunkTokens / kStep; ++step) {
    if (step > part.warp) continue;
    LeftFactor products;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&sums)[4] = outputs.products[step * 2 + i / 2];
      const PairHalves pair = HalvesOf(sums[i % 2 * 2], sums[i % 2 * 2 + 1]);
      products.high[i] = pair.high;
      products.low[i] = pair.low;
    }
#pragma unroll
    for (int tile = 0; tile < WarpOutputs::kChannelTiles; tile += 2) {
      RightFactor x[2];
      LoadRight(chunk.x, step * kStep, tile * 8, x);
      AddProduct(outputs.y[tile], products, x[0]);
      AddProduct(outputs.y[tile + 1], products, x[1]);
    }
  }
}

__device__ void StoreOutputs(const SsdScanArguments& arguments,
                             const Part& part, int64_t token,
                             const WarpOutputs& outputs) {
  const float d = LoadConstant(arguments.d + part.head);
  const int64_t first = part.head * arguments.head_dim + part.first_channel;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t own = token + part.warp * kWarpTokens + part.group + half * 8;
#pragma unroll
    for (int tile = 0; tile < WarpOutputs::kChannelTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int channel = tile * 8 + part.quad * 2 + i;
        if (channel >= part.channels) continue;
        // y may be x, of which this is the last use.
        const float x = Load(At(arguments.x, own, first + channel));
        Store(At(arguments.y, own, first + channel),
              SsdOutput(x, d, outputs.y[tile][half * 2 + i]));
      }
    }
  }
}

__device__ void AdvanceStates(const Part& part, const SharedChunk& chunk,
                              WarpStates& states) {
  const float decay = DecayBetween({}, chunk.steps[kChunkTokens - 1]);
#pragma unroll
  for (int m = 0; m < WarpStates::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < WarpStates::kColumnTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) states.sums[m][n][i] *= decay;
    }
  }
  const int first_state = part.warp * kWarpStates;
  for (int step = 0; step < kChunkTokens / kStep; ++step) {
    LeftFactor added[WarpStates::kRowTiles];
#pragma unroll
    for (int m = 0; m < WarpStates::kRowTiles; ++m) {
      added[m] = LoadLeft(chunk.added, step * kStep, m * 16);
    }
#pragma unroll
    for (int n = 0; n < WarpStates::kColumnTiles; n += 2) {
      if (first_state + n * 8 >= part.states) continue;
      RightFactor b[2];
      LoadRight(chunk.b, step * kStep, first_state + n * 8, b);
#pragma unroll
      for (int m = 0; m < WarpStates::kRowTiles; ++m) {
        AddProduct(states.sums[m][n], added[m], b[0]);
        AddProduct(states.sums[m][n + 1], added[m], b[1]);
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    ScanChunks(StepTable step, SsdScanArguments arguments, Alignment aligned) {
  GridWait();
  GridTrigger();
  const StepRow row = RowAt(step, blockIdx.y);
  const RowChunks cut = ChunksOf(row.position, row.tokens);
  if (cut.chunks == 0) return;
  const Part part = ThisPart(arguments);
  auto& chunk = *DynamicShared<SharedChunk>();
  const int64_t first_state =
      part.head * arguments.d_state * arguments.head_dim + part.first_channel;
  const auto place = [&](int channel, int state) {
    return first_state + state * arguments.head_dim + channel;
  };
  // A head has left its state in slot_out.
  const float* const in =
      ShareAt(arguments.ssm_state, cut.head > 0 ? row.slot_out : row.slot_in);
  WarpStates states = {};
  EachState(part, states, [&](float& value, int channel, int state) {
    value = LoadStream(in + place(channel, state));
  });
  int64_t token = row.offset + cut.head;
  float2 dt = LoadSteps(arguments, part, token);
  FetchedChannels x = LoadChannels(arguments, part, token, aligned.channels);
  for (int64_t i = 0; i < cut.chunks; ++i, token += kChunkTokens) {
    if (part.warp == 0) PutSteps(arguments, part, dt, chunk);
    PutWarpStates(part, states, chunk);
    PutStates(arguments, part, token, aligned.states, chunk);
    BlockBarrier();
    PutChannels(x, chunk);
    if (i + 1 < cut.chunks) {
      dt = LoadSteps(arguments, part, token + kChunkTokens);
      x = LoadChannels(arguments, part, token + kChunkTokens, aligned.channels);
    }
    BlockBarrier();
    WarpOutputs outputs;
    MultiplyC(arguments, part, token, aligned.states, chunk, outputs);
    Decay(part, chunk, outputs);
    AddTokens(part, chunk, outputs);
    StoreOutputs(arguments, part, token, outputs);
    AdvanceStates(part, chunk, states);
    BlockBarrier();
  }
  float* const out = ShareAt(arguments.ssm_state, row.slot_out);
  EachState(part, states, [&](float& value, int channel, int state) {
    StoreStream(out + place(channel, state), value);
  });
}

}  // namespace

bool CanScanChunks(const SsdScanArguments& arguments) {
  return arguments.d_state <= kMostStates;
}

cudaError_t SsdChunks(cudaStream_t stream, const StepTable& step,
                      const SsdScanArguments& arguments) {
  const int64_t blocks = (arguments.head_dim + kChannels - 1) / kChannels;
  const LaunchShape shape = {
      dim3(static_cast<unsigned>(arguments.heads * blocks),
           static_cast<unsigned>(step.row_count)),
      dim3(kThreads), sizeof(SharedChunk)};
  const Alignment aligned = {
      arguments.d_state % 4 == 0 && AreFoursAligned(arguments.b) &&
          AreFoursAligned(arguments.c),
      arguments.head_dim % 4 == 0 && AreFoursAligned(arguments.x)};
  return Launch(shape, stream, ScanChunks, step, arguments, aligned);
}

}  // namespace engram::cuda

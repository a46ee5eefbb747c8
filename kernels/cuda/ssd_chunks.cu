// Two kernels. With L(t) = Σ Δ a up to token t of a chunk of 64 tokens, S the
// states [channel, state] before it, and products of matrices:
//   y(t)  = exp(L(t)) C(t) Sᵀ + d x(t)
//           + Σ_{u <= t} C(t)·B(u) exp(L(t) - L(u)) Δ(u) x(u)
//   S    <- exp(L(63)) S + Σ_u exp(L(63) - L(u)) Δ(u) x(u) B(u)ᵀ
// Source: Mamba-2, arXiv 2405.21060, section 6.
//
// PrepareChunks does for all chunks at once what heads of a group share: B and
// C as factors of tensor cores, and C Bᵀ, into the scan's room. ScanChunks goes
// through a row's chunks one after the other. A block has a row by 64 channels
// of a head. Four of its warps multiply: each has 16 channels and all states,
// 64 tokens of y at a time, and needs nothing of the others; S stays in its
// registers, whose sums are laid out as factors are, and x is fetched for the
// next chunk while S takes this one's. The other four prepare the next chunk
// beside them: they fetch B and C into shared memory, and weight C Bᵀ. One
// barrier a chunk. All factors lie as lanes load them, 16 bytes a lane.
//
// Order. Products are those of halves_product.h, by steps of 16 of what is
// summed over, ascending. Sums over S are scaled in float32, get d x, and then
// the sum over u goes on in them; S is scaled before its sum. L is summed in
// float64, pairs of tokens as a tree over lanes, and kept as the nearest
// float32 and what is left, so that differences are exact however far a head
// decays; a weight is exp of a difference, 0 below -87. Products above the
// diagonal are not computed by steps of 16, and are 0 within them: what is not
// finite in a token reaches those before it in its chunk, whose row is broken
// anyway.
//
// Memory: as ssd_scan.cu, the state once per row; B, C and their products twice
// more, and once for each 64 channels from the second-level cache. Tensor-core
// steps of a chunk of 64 channels and 128 states: 1,776, against 1 M fused
// multiply-adds of the recurrence.
#include "kernels/cuda/activations.h"
#include "kernels/cuda/alignment.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/halves_product.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_chunks.h"
#include "kernels/cuda/row_data.h"
#include "kernels/cuda/ssd_chunks.h"
#include "kernels/cuda/ssd_step.h"

namespace engram::cuda {
namespace {

constexpr int kMostStates = 128;
constexpr int kStep = 16;  // of a product, in what it sums over
constexpr int kTile = 8;   // columns of a right factor
constexpr int kTokenSteps = kChunkTokens / kStep;
constexpr int kTokenTiles = kChunkTokens / kTile;

// --- The room: of each chunk and group, right factors of 32 lanes. For each 16
// states, 8 factors of B (states by 16 tokens: 2 for each) and 8 of C (tokens
// by these states); and the products C Bᵀ in float32, where factors of tokens t
// by 16 tokens u have theirs, of all tiles that are not above the diagonal.
constexpr int kStepFactors = 8;
static_assert(kStepFactors == kTokenTiles && kStepFactors == 2 * kTokenSteps);
constexpr int kProductTiles = kTokenSteps * (kTokenSteps + 1);

// Of 8 tokens t and 16 tokens u <= t.
__device__ constexpr int ProductTile(int tile, int step) {
  const int half = tile / 2 + 1;
  return tile / 2 * half + tile % 2 * half + step;
}

__host__ __device__ int StateSteps(const SsdScanArguments& arguments) {
  return static_cast<int>((arguments.d_state + kStep - 1) / kStep);
}

struct Room {
  RightFactor* b;
  RightFactor* c;
  float4* products;
};

// Of the chunk that begins within the 64 tokens `window`.
__device__ Room RoomOf(const SsdScanArguments& arguments, int64_t window,
                       int64_t group) {
  const int64_t factors = StateSteps(arguments) * kStepFactors * 32;
  const int64_t all = 2 * factors + kProductTiles * 32;
  RightFactor* const first = reinterpret_cast<RightFactor*>(arguments.room) +
                             (window * arguments.groups + group) * all;
  return {first, first + factors,
          reinterpret_cast<float4*>(first + 2 * factors)};
}

// A lane's place in factors and sums.
struct Place {
  int lane, group, quad;
};
__device__ Place ThisPlace() {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return {lane, lane / 4, lane % 4};
}

// --- PrepareChunks: a block has a chunk, a group and 16 tokens.

constexpr int kPrepareThreads = 32 * kTokenSteps;

// The first token of the chunk that begins among the 64 from 64 `window` on,
// or -1. There is at most one.
__device__ int64_t ChunkWithin(const StepTable& step, int64_t window) {
  unsigned found[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t token =
        window * kChunkTokens + half * 32 + static_cast<int>(threadIdx.x) % 32;
    bool begins = false;
    if (token < step.token_count) {
      const StepRow row = RowAt(step, Load(step.row_of_token + token));
      const RowChunks cut = ChunksOf(row.position, row.tokens);
      const int64_t behind = token - row.offset - cut.head;
      begins = behind >= 0 && behind % kChunkTokens == 0 &&
               behind / kChunkTokens < cut.chunks;
    }
    found[half] = Ballot(begins);
  }
  for (int i = 0; i < kChunkTokens; ++i) {
    if ((found[i / 32] >> (i % 32) & 1) != 0) return window * kChunkTokens + i;
  }
  return -1;
}

// b and c at a token of the chunk; zero where there is no such state.
struct GroupStates {
  const SsdScanArguments& arguments;
  int64_t token, first_state;
  bool aligned;

  __device__ float At(const ConstMatrix& matrix, int row, int state) const {
    return state < arguments.d_state
               ? Load(cuda::At(matrix, token + row, first_state + state))
               : 0.0f;
  }
  // At an even state. `aligned`: both at a multiple of 8 bytes.
  __device__ float2 TwoAt(const ConstMatrix& matrix, int row, int state) const {
    if (aligned && state + 1 < arguments.d_state) {
      return Load(reinterpret_cast<const float2*>(
          cuda::At(matrix, token + row, first_state + state)));
    }
    return {At(matrix, row, state), At(matrix, row, state + 1)};
  }
};

// Factors of B and C of 16 tokens, by all warps.
__device__ void PrepareFactors(const GroupStates& states, const Room& room,
                               int token_step) {
  const Place place = ThisPlace();
  const SsdScanArguments& arguments = states.arguments;
  for (int step = static_cast<int>(threadIdx.x) / 32;
       step < StateSteps(arguments); step += kPrepareThreads / 32) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at =
          (step * kStepFactors + token_step * 2 + half) * 32 + place.lane;
      const int row = token_step * kStep + half * kTile + place.group;
      const int state = step * kStep + place.quad * 2;
      Store(room.c + at,
            RightOf(states.TwoAt(arguments.c, row, state),
                    states.TwoAt(arguments.c, row, state + kTile)));
      const int own_state = step * kStep + half * kTile + place.group;
      const auto two = [&](int first) {
        const int own_row = token_step * kStep + first + place.quad * 2;
        return float2{states.At(arguments.b, own_row, own_state),
                      states.At(arguments.b, own_row + 1, own_state)};
      };
      Store(room.b + at, RightOf(two(0), two(kTile)));
    }
  }
}

// Of 16 tokens with the 16 of each warp.
__device__ void PrepareProducts(const GroupStates& states, const Room& room,
                                int token_step) {
  const Place place = ThisPlace();
  const SsdScanArguments& arguments = states.arguments;
  const int source_step = static_cast<int>(threadIdx.x) / 32;
  if (source_step > token_step) return;
  float sums[2][4] = {};
#pragma unroll 4
  for (int step = 0; step < StateSteps(arguments); ++step) {
    const int state = step * kStep + place.quad * 2;
    LeftFactor c;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      c.Set(i, states.TwoAt(arguments.c,
                            token_step * kStep + place.group + i % 2 * kTile,
                            state + i / 2 * kTile));
    }
    RightFactor b[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = source_step * kStep + half * kTile + place.group;
      b[half] = RightOf(states.TwoAt(arguments.b, row, state),
                        states.TwoAt(arguments.b, row, state + kTile));
    }
    AddProducts(sums, 0, c, b);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int tile = ProductTile(token_step * 2 + half, source_step);
    Store(room.products + tile * 32 + place.lane,
          float4{sums[0][half * 2], sums[0][half * 2 + 1], sums[1][half * 2],
                 sums[1][half * 2 + 1]});
  }
}

__global__ void __launch_bounds__(kPrepareThreads)
    PrepareChunks(StepTable step, SsdScanArguments arguments, bool aligned) {
  GridWait();
  GridTrigger();
  const int64_t token = ChunkWithin(step, blockIdx.x);
  if (token < 0) return;
  const int64_t group = blockIdx.y / kTokenSteps;
  const int token_step = static_cast<int>(blockIdx.y) % kTokenSteps;
  const Room room = RoomOf(arguments, blockIdx.x, group);
  const GroupStates states = {arguments, token, group * arguments.d_state,
                              aligned};
  PrepareFactors(states, room, token_step);
  PrepareProducts(states, room, token_step);
}

// --- ScanChunks.

constexpr int kMultiplyWarps = 4;
constexpr int kPrepareWarps = 4;
constexpr int kThreads = 32 * (kMultiplyWarps + kPrepareWarps);
constexpr int kChannels = kMultiplyWarps * kStep;  // of a block

// What a head does to a chunk's tokens.
struct ChunkSteps {
  float delta[kChunkTokens];
  float log_decay[kChunkTokens];       // of the chunk's tokens up to this one
  float log_decay_rest[kChunkTokens];  // what float32 leaves of it
  float of_states[kChunkTokens];    // what is left of states before the chunk
  float into_states[kChunkTokens];  // of x, what states have in the end
};

template <int kStateSteps>
struct SharedChunks {
  static constexpr int kFactors = kStateSteps * kStepFactors * 32;
  struct Chunk {
    RightFactor b[kFactors];
    RightFactor c[kFactors];
    // C Bᵀ, weighted.
    RightFactor products[kProductTiles * 32];
  };
  Chunk chunks[2];  // in turn: this one and the next
  // Theirs, and those of the one behind.
  static constexpr int kSteps = 3;
  ChunkSteps steps[kSteps];
};

// What is left, at the token `to`, of what came in at `from`.
__device__ float DecayBetween(const ChunkSteps& steps, int from, int to) {
  return Exp((steps.log_decay[to] - steps.log_decay[from]) +
             (steps.log_decay_rest[to] - steps.log_decay_rest[from]));
}

// What one warp has fetched for ChunkSteps: two tokens a lane.
__device__ float2 LoadSteps(const SsdScanArguments& arguments, int64_t head,
                            int64_t token) {
  const int64_t own = token + threadIdx.x % 32 * 2;
  return {Load(At(arguments.dt, own, head)),
          Load(At(arguments.dt, own + 1, head))};
}

__device__ void PutSteps(const SsdScanArguments& arguments, int64_t head,
                         float2 dt, ChunkSteps& steps) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float delta[2] = {SsdDelta(arguments, dt.x, head),
                          SsdDelta(arguments, dt.y, head)};
  const double a = LoadConstant(arguments.a + head);
  const double of_second = a * static_cast<double>(delta[1]);
  double sum = a * static_cast<double>(delta[0]) + of_second;
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const double before = ShuffleUp(sum, lanes);
    if (lane >= lanes) sum = before + sum;
  }
  const double sums[2] = {sum - of_second, sum};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = 2 * lane + i;
    const float nearest = static_cast<float>(sums[i]);
    steps.delta[token] = delta[i];
    steps.log_decay[token] = nearest;
    steps.log_decay_rest[token] = static_cast<float>(sums[i] - nearest);
    steps.of_states[token] = Exp(nearest + steps.log_decay_rest[token]);
  }
  WarpBarrier();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = 2 * lane + i;
    steps.into_states[token] =
        DecayBetween(steps, token, kChunkTokens - 1) * delta[i];
  }
}

// Begins to fetch B and C of a chunk. What there is no state for stays zero.
template <int kStateSteps>
__device__ void FetchFactors(const SsdScanArguments& arguments,
                             const Room& room,
                             typename SharedChunks<kStateSteps>::Chunk& chunk) {
  const int factors = StateSteps(arguments) * kStepFactors * 32;
  for (int i = static_cast<int>(threadIdx.x) - 32 * kMultiplyWarps; i < factors;
       i += 32 * kPrepareWarps) {
    AsyncCopy16(chunk.c + i, room.c + i);
    AsyncCopy16(chunk.b + i, room.b + i);
  }
  AsyncCommit();
}

// Products of a tile of 8 tokens and the 16 of `step`, weighted.
__device__ RightFactor Weighted(float4 products, const ChunkSteps& steps,
                                const Place& place, int tile, int step) {
  const int to = tile * kTile + place.group;
  const auto weigh = [&](float product, int index) {
    const int from =
        step * kStep + index % 2 + index / 2 * kTile + place.quad * 2;
    return from <= to
               ? product * (DecayBetween(steps, from, to) * steps.delta[from])
               : 0.0f;
  };
  return RightOf({weigh(products.x, 0), weigh(products.y, 1)},
                 {weigh(products.z, 2), weigh(products.w, 3)});
}

// By each warp that prepares, of two tiles of tokens t, so that all have as
// many.
__device__ void WeighProducts(const Room& room, const ChunkSteps& steps,
                              RightFactor* target) {
  const Place place = ThisPlace();
  const int warp = static_cast<int>(threadIdx.x) / 32 - kMultiplyWarps;
  static_assert(2 * kPrepareWarps == kTokenTiles);
  constexpr int kTiles = kProductTiles / kPrepareWarps;
  // Of the early tile first.
  const int early = warp / 2 + 1;
  const auto tile_of = [&](int i) {
    return i < early ? warp : kTokenTiles - 1 - warp;
  };
  const auto step_of = [&](int i) { return i < early ? i : i - early; };
  float4 products[kTiles];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    products[i] = Load(room.products +
                       ProductTile(tile_of(i), step_of(i)) * 32 + place.lane);
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    target[ProductTile(tile_of(i), step_of(i)) * 32 + place.lane] =
        Weighted(products[i], steps, place, tile_of(i), step_of(i));
  }
}

// Which channels of a head a lane multiplies: two, 8 apart.
struct Channels {
  int64_t first;  // in the head
  bool exist[2];
};
__device__ Channels ThisChannels(const SsdScanArguments& arguments,
                                 int64_t first) {
  const int64_t own = first + threadIdx.x / 32 * kStep + ThisPlace().group;
  return {own, {own < arguments.head_dim, own + kTile < arguments.head_dim}};
}

// x of a chunk as a left factor, channels by tokens, has it: [i % 2] of the
// channels, pairs of tokens from 2 quad + 8 (i / 2) on.
struct Inputs {
  float2 x[kTokenSteps][4];
};

// Calls body(of_step, i, e, token, channel) for each of a lane's values.
template <class Body>
__device__ void EachInput(const Channels& channels, const Body& body) {
  const int quad = ThisPlace().quad;
#pragma unroll
  for (int step = 0; step < kTokenSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!channels.exist[i % 2]) continue;
      body(step, i, step * kStep + i / 2 * kTile + quad * 2,
           channels.first + i % 2 * kTile);
    }
  }
}

__device__ Inputs LoadInputs(const SsdScanArguments& arguments, int64_t head,
                             const Channels& channels, int64_t token) {
  Inputs inputs = {};
  const int64_t first = head * arguments.head_dim;
  EachInput(channels, [&](int step, int i, int row, int64_t channel) {
    inputs.x[step][i] = {
        Load(At(arguments.x, token + row, first + channel)),
        Load(At(arguments.x, token + row + 1, first + channel))};
  });
  return inputs;
}

// A warp's states, 16 channels by all: sums of products, 8 states a tile.
template <int kStateSteps>
struct WarpStates {
  static constexpr int kTiles = 2 * kStateSteps;
  static constexpr int kTogether = kTiles < 8 ? kTiles : 8;
  float sums[kTiles / kTogether][kTogether][4];

  __device__ float (&Tile(int tile))[4] {
    return sums[tile / kTogether][tile % kTogether];
  }

  // Calls body(value, state, channel) for all values that exist.
  template <class Body>
  __device__ void Each(const SsdScanArguments& arguments,
                       const Channels& channels, const Body& body) {
    const int quad = ThisPlace().quad;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int state = tile * kTile + quad * 2 + i % 2;
        if (channels.exist[i / 2] && state < arguments.d_state) {
          body(Tile(tile)[i], state, channels.first + i / 2 * kTile);
        }
      }
    }
  }
};

// yᵀ of a warp's channels: 8 tokens a tile.
struct WarpOutputs {
  float y[kTokenTiles][4];
};

template <int kStateSteps>
__device__ void MultiplyStates(WarpStates<kStateSteps>& states,
                               const RightFactor* c, WarpOutputs& outputs) {
  const int lane = ThisPlace().lane;
  outputs = {};
#pragma unroll
  for (int step = 0; step < kStateSteps; ++step) {
    LeftFactor left;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&sums)[4] = states.Tile(step * 2 + i / 2);
      left.Set(i, {sums[i % 2 * 2], sums[i % 2 * 2 + 1]});
    }
    RightFactor right[kTokenTiles];
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      right[tile] = c[(step * kStepFactors + tile) * 32 + lane];
    }
    AddProducts(outputs.y, 0, left, right);
  }
}

__device__ float2 TwoOf(const float* values, int first) {
  return *reinterpret_cast<const float2*>(values + first);
}

// y <- exp(L) y + d x + the products with x.
__device__ void AddTokens(const Inputs& inputs, const ChunkSteps& steps,
                          const RightFactor* products, float d,
                          WarpOutputs& outputs) {
  const Place place = ThisPlace();
#pragma unroll
  for (int tile = 0; tile < kTokenTiles; ++tile) {
    const float2 left = TwoOf(steps.of_states, tile * kTile + place.quad * 2);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 x = inputs.x[tile / 2][tile % 2 * 2 + half];
      float(&y)[4] = outputs.y[tile];
      y[half * 2] = fmaf(d, x.x, y[half * 2] * left.x);
      y[half * 2 + 1] = fmaf(d, x.y, y[half * 2 + 1] * left.y);
    }
  }
#pragma unroll
  for (int step = 0; step < kTokenSteps; ++step) {
    LeftFactor left;
#pragma unroll
    for (int i = 0; i < 4; ++i) left.Set(i, inputs.x[step][i]);
    RightFactor right[kTokenTiles] = {};
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      if (tile < 2 * step) continue;
      right[tile] = products[ProductTile(tile, step) * 32 + place.lane];
    }
    AddProducts(outputs.y, 2 * step, left, right);
  }
}

__device__ void StoreOutputs(const SsdScanArguments& arguments, int64_t head,
                             const Channels& channels, int64_t token,
                             const WarpOutputs& outputs) {
  const int64_t first = head * arguments.head_dim;
  EachInput(channels, [&](int step, int i, int row, int64_t channel) {
    const float(&y)[4] = outputs.y[step * 2 + i / 2];
    Store(At(arguments.y, token + row, first + channel), y[i % 2 * 2]);
    Store(At(arguments.y, token + row + 1, first + channel), y[i % 2 * 2 + 1]);
  });
}

template <int kStateSteps>
__device__ void AdvanceStates(const Inputs& inputs, const ChunkSteps& steps,
                              const RightFactor* b,
                              WarpStates<kStateSteps>& states) {
  using States = WarpStates<kStateSteps>;
  const Place place = ThisPlace();
  const float decay = steps.of_states[kChunkTokens - 1];
#pragma unroll
  for (int tile = 0; tile < States::kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) states.Tile(tile)[i] *= decay;
  }
#pragma unroll
  for (int step = 0; step < kTokenSteps; ++step) {
    LeftFactor added;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 weight = TwoOf(
          steps.into_states, step * kStep + i / 2 * kTile + place.quad * 2);
      const float2 x = inputs.x[step][i];
      added.Set(i, {weight.x * x.x, weight.y * x.y});
    }
#pragma unroll
    for (int part = 0; part < States::kTiles / States::kTogether; ++part) {
      RightFactor right[States::kTogether];
#pragma unroll
      for (int i = 0; i < States::kTogether; ++i) {
        const int tile = part * States::kTogether + i;
        right[i] = b[(tile / 2 * kStepFactors + step * 2 + tile % 2) * 32 +
                     place.lane];
      }
      AddProducts(states.sums[part], 0, added, right);
    }
  }
}

template <int kStateSteps>
__global__ void __launch_bounds__(kThreads, 1)
    ScanChunks(StepTable step, SsdScanArguments arguments) {
  GridWait();
  GridTrigger();
  const StepRow row = RowAt(step, blockIdx.y);
  const RowChunks cut = ChunksOf(row.position, row.tokens);
  if (cut.chunks == 0) return;
  using Shared = SharedChunks<kStateSteps>;
  auto& shared = *DynamicShared<Shared>();
  const int64_t blocks = (arguments.head_dim + kChannels - 1) / kChannels;
  const int64_t head = blockIdx.x / blocks;
  const int64_t group = GroupOf(arguments, head);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t first_token = row.offset + cut.head;
  const int chunks = static_cast<int>(cut.chunks);
  const auto token_of = [&](int i) {
    return first_token + int64_t{i} * kChunkTokens;
  };
  const auto steps_of = [&](int i) -> ChunkSteps& {
    return shared.steps[i % Shared::kSteps];
  };

  const Channels channels =
      ThisChannels(arguments, blockIdx.x % blocks * kChannels);
  const int64_t first_state = head * arguments.d_state * arguments.head_dim;
  const auto place_of = [&](int state, int64_t channel) {
    return first_state + state * arguments.head_dim + channel;
  };
  const float d = LoadConstant(arguments.d + head);
  WarpStates<kStateSteps> states = {};
  Inputs inputs = {};
  float2 dt = {};
  if (warp < kMultiplyWarps) {
    // A head has left its state in slot_out.
    const float* const in =
        ShareAt(arguments.ssm_state, cut.head > 0 ? row.slot_out : row.slot_in);
    states.Each(arguments, channels,
                [&](float& value, int state, int64_t channel) {
                  value = LoadStream(in + place_of(state, channel));
                });
    inputs = LoadInputs(arguments, head, channels, first_token);
  }
  for (int i = StateSteps(arguments) * kStepFactors * 32 +
               static_cast<int>(threadIdx.x);
       i < Shared::kFactors; i += kThreads) {
    for (auto& chunk : shared.chunks) chunk.b[i] = chunk.c[i] = RightFactor{};
  }
  if (warp == kMultiplyWarps) {
    PutSteps(arguments, head, LoadSteps(arguments, head, first_token),
             steps_of(0));
    if (chunks > 1) dt = LoadSteps(arguments, head, token_of(1));
  }
  BlockBarrier();
  for (int i = -1; i < chunks; ++i) {
    if (warp >= kMultiplyWarps) {
      if (i + 1 < chunks) {
        auto& chunk = shared.chunks[(i + 1) % 2];
        const Room room =
            RoomOf(arguments, token_of(i + 1) / kChunkTokens, group);
        FetchFactors<kStateSteps>(arguments, room, chunk);
        WeighProducts(room, steps_of(i + 1), chunk.products);
      }
      if (warp == kMultiplyWarps && i + 2 < chunks) {
        PutSteps(arguments, head, dt, steps_of(i + 2));
        if (i + 3 < chunks) {
          dt = LoadSteps(arguments, head, token_of(i + 3));
        }
      }
      AsyncWait<0>();
    } else if (i >= 0) {
      const auto& chunk = shared.chunks[i % 2];
      const ChunkSteps& steps = steps_of(i);
      WarpOutputs outputs;
      MultiplyStates(states, chunk.c, outputs);
      AddTokens(inputs, steps, chunk.products, d, outputs);
      StoreOutputs(arguments, head, channels, token_of(i), outputs);
      const Inputs next = i + 1 < chunks ? LoadInputs(arguments, head, channels,
                                                      token_of(i + 1))
                                         : Inputs{};
      AdvanceStates(inputs, steps, chunk.b, states);
      inputs = next;
    }
    BlockBarrier();
  }
  if (warp >= kMultiplyWarps) return;
  float* const out = ShareAt(arguments.ssm_state, row.slot_out);
  states.Each(arguments, channels,
              [&](float& value, int state, int64_t channel) {
                StoreStream(out + place_of(state, channel), value);
              });
}

template <int kStateSteps>
cudaError_t Scan(cudaStream_t stream, const StepTable& step,
                 const SsdScanArguments& arguments) {
  const int64_t blocks = (arguments.head_dim + kChannels - 1) / kChannels;
  const LaunchShape shape = {
      dim3(static_cast<unsigned>(arguments.heads * blocks),
           static_cast<unsigned>(step.row_count)),
      dim3(kThreads), sizeof(SharedChunks<kStateSteps>)};
  return Launch(shape, stream, ScanChunks<kStateSteps>, step, arguments);
}

}  // namespace

bool CanScanChunks(const SsdScanArguments& arguments) {
  return arguments.d_state <= kMostStates;
}

cudaError_t SsdChunks(cudaStream_t stream, const StepTable& step,
                      const SsdScanArguments& arguments) {
  static_assert(kProductTiles * 32 * 4 == 40 * kChunkTokens,
                "what SsdRoomFloats has for each token");
  const int64_t windows = (step.token_count + kChunkTokens - 1) / kChunkTokens;
  const LaunchShape shape = {
      dim3(static_cast<unsigned>(windows),
           static_cast<unsigned>(arguments.groups * kTokenSteps)),
      dim3(kPrepareThreads), 0};
  const bool aligned = arguments.d_state % 2 == 0 &&
                       ArePairsAligned(arguments.b) &&
                       ArePairsAligned(arguments.c);
  const cudaError_t error =
      Launch(shape, stream, PrepareChunks, step, arguments, aligned);
  if (error != cudaSuccess) return error;
  return StateSteps(arguments) <= 2
             ? Scan<2>(stream, step, arguments)
             : Scan<kMostStates / kStep>(stream, step, arguments);
}

}  // namespace engram::cuda

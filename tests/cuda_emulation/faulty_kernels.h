// Kernels that each do one thing that a device punishes, or worse, does not.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace engram::cuda {

enum class Fault {
  kNone,
  kBarrierMissed,
  kBarriersOfTwoPlaces,
  kShuffleMissed,
  kShuffleAndVote,
  kShuffleOfNoLane,
  kMisalignedLoad,
  kLoadBeyond,
  kLoadOfShared,
  kTouchWithoutLoad,
  kSharedBeyond,
  kMisalignedCopy,
  kCopyBeyondShared,
  kMisalignedTurn,
  kTriggerBeforeWait,
  kNoWait,
  kNoTrigger,
  kBarrierMissing,
  kCopyNotAwaited,
  kLastCopyNotAwaited,
  kBlocksShare,
};

constexpr int kFaultyThreads = 64;
constexpr int kFaultyFloats = 4 * kFaultyThreads;

// One block, or two for kBlocksShare, of kFaultyThreads: out[i] = in[j], where
// j is i in reverse order, by way of shared memory, and `fault` besides.
//   in, out  [kFaultyFloats]
cudaError_t Reverse(cudaStream_t stream, Fault fault, const float* in,
                    float* out);

// to[i] = from[i], read before the wait for what comes before.
//   from, to  [kFaultyThreads]
cudaError_t CopyWithoutWaiting(cudaStream_t stream, const float* from,
                               float* to);

// A block of so many threads with so much shared memory, which do nothing; by
// the runtime's own launch, so that nothing is allowed to it before.
cudaError_t DoNothing(cudaStream_t stream, int threads, size_t shared_bytes);
// Lets DoNothing have as much.
cudaError_t AllowDoNothing(size_t shared_bytes);

// A shuffle in a warp of fewer than 32 threads.
cudaError_t ShuffleInPartOfWarp(cudaStream_t stream);

// counts[0] += 1 of all threads of `blocks` blocks, counts[1] = their largest
// index, by atomics in global and in shared memory.
cudaError_t Count(cudaStream_t stream, int blocks, uint32_t* counts);

}  // namespace engram::cuda

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "tests/cuda_emulation/faulty_kernels.h"

namespace engram::cuda {
namespace {

// What is wrong before the barrier.
__device__ void MisbehaveBefore(Fault fault, const float* in, float* shared) {
  const int thread = threadIdx.x;
  const bool first = thread == 0;
  switch (fault) {
    case Fault::kBarriersOfTwoPlaces:
      if (first) BlockBarrier();
      break;
    case Fault::kShuffleMissed:
      if (!first) ShuffleXor(1.0f, 1);
      break;
    case Fault::kShuffleAndVote:
      if (first) {
        Any(true);
      } else {
        ShuffleXor(1.0f, 1);
      }
      break;
    case Fault::kShuffleOfNoLane:
      ShuffleFrom(1.0f, 32);
      break;
    case Fault::kMisalignedLoad:
      Load(reinterpret_cast<const float4*>(in + 1));
      break;
    case Fault::kLoadBeyond:
      Load(in + kFaultyFloats);
      break;
    case Fault::kLoadOfShared:
      Load(shared);
      break;
    case Fault::kTouchWithoutLoad:
      shared[thread] = *static_cast<const volatile float*>(in);
      break;
    case Fault::kSharedBeyond:
      if (first) *static_cast<volatile float*>(shared + kFaultyFloats) = 1;
      break;
    case Fault::kMisalignedCopy:
      AsyncCopy16(shared + 1, in);
      break;
    case Fault::kCopyBeyondShared:
      AsyncCopy16(shared + kFaultyFloats, in);
      break;
    case Fault::kMisalignedTurn: {
      uint32_t turned[4];
      LoadTurned(turned, shared + 1);
      break;
    }
    default:
      break;
  }
}

__global__ void __launch_bounds__(kFaultyThreads)
    ReverseKernel(Fault fault, const float* in, float* out) {
  if (fault == Fault::kTriggerBeforeWait) GridTrigger();
  if (fault != Fault::kNoWait) GridWait();
  if (fault != Fault::kNoTrigger) GridTrigger();
  const int thread = threadIdx.x;
  float* const shared = DynamicShared<float>();
  MisbehaveBefore(fault, in, shared);

  AsyncCopy16(shared + 4 * thread, in + 4 * thread);
  AsyncCommit();
  if (fault == Fault::kLastCopyNotAwaited) {
    AsyncWait<1>();
  } else if (fault != Fault::kCopyNotAwaited) {
    AsyncWait<0>();
  }
  if (fault != Fault::kBarrierMissing &&
      (fault != Fault::kBarrierMissed || thread != 0)) {
    BlockBarrier();
  }
  float4 values;
  const float* const from = shared + 4 * (kFaultyThreads - 1 - thread);
  values.x = from[3];
  values.y = from[2];
  values.z = from[1];
  values.w = from[0];
  Store(reinterpret_cast<float4*>(out) + thread, values);
}

__global__ void __launch_bounds__(kFaultyThreads)
    CopyWithoutWaitingKernel(const float* from, float* to) {
  const float early = Load(from + threadIdx.x);
  GridWait();
  GridTrigger();
  Store(to + threadIdx.x, early);
}

__global__ void DoNothingKernel() {
  GridWait();
  GridTrigger();
}

__global__ void ShuffleKernel() {
  GridWait();
  GridTrigger();
  ShuffleXor(1.0f, 1);
}

__global__ void __launch_bounds__(kFaultyThreads)
    CountKernel(uint32_t* counts) {
  GridWait();
  GridTrigger();
  uint32_t* const of_block = DynamicShared<uint32_t>();
  if (threadIdx.x == 0) *of_block = 0;
  BlockBarrier();
  AtomicAdd(of_block, 1u);
  BlockBarrier();
  if (threadIdx.x == 0) AtomicAdd(counts, *of_block);
  AtomicMax(counts + 1, blockIdx.x * kFaultyThreads + threadIdx.x);
}

}  // namespace

cudaError_t Reverse(cudaStream_t stream, Fault fault, const float* in,
                    float* out) {
  return Launch({.grid = dim3(fault == Fault::kBlocksShare ? 2 : 1),
                 .block = dim3(kFaultyThreads),
                 .shared_bytes = kFaultyFloats * sizeof(float)},
                stream, ReverseKernel, fault, in, out);
}

cudaError_t CopyWithoutWaiting(cudaStream_t stream, const float* from,
                               float* to) {
  return Launch({.grid = dim3(1), .block = dim3(kFaultyThreads)}, stream,
                CopyWithoutWaitingKernel, from, to);
}

cudaError_t DoNothing(cudaStream_t stream, int threads, size_t shared_bytes) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(1);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, DoNothingKernel);
}

cudaError_t AllowDoNothing(size_t shared_bytes) {
  return cudaFuncSetAttribute(DoNothingKernel,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(shared_bytes));
}

cudaError_t ShuffleInPartOfWarp(cudaStream_t stream) {
  return Launch({.grid = dim3(1), .block = dim3(48)}, stream, ShuffleKernel);
}

cudaError_t Count(cudaStream_t stream, int blocks, uint32_t* counts) {
  return Launch({.grid = dim3(blocks),
                 .block = dim3(kFaultyThreads),
                 .shared_bytes = sizeof(uint32_t)},
                stream, CountKernel, counts);
}

}  // namespace engram::cuda

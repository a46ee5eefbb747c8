// A kernel whose accesses are near or far from each other.
#pragma once

#include <cuda_runtime.h>

namespace engram::cuda {

constexpr int kStridedThreads = 64;  // of one block

// to[i] = from[stride i], twice over; the second time by asynchronous copies of
// the four from from[4 i] on.
//   from  [stride kStridedThreads], at least 4 kStridedThreads
//   to    [kStridedThreads, 4], of which the first is written twice
cudaError_t CopyStrided(cudaStream_t stream, int stride, const float* from,
                        float* to);

}  // namespace engram::cuda

// How long a device takes for what is put into a stream.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

namespace engram {

// Of one run of `work`, which puts something into cudaStreamPerThread: the
// median of five times of `count` runs, after one that is not counted; negative
// if anything fails.
template <class Work>
float Milliseconds(int count, const Work& work) {
  cudaEvent_t begin, end;
  if (cudaEventCreate(&begin) != cudaSuccess ||
      cudaEventCreate(&end) != cudaSuccess) {
    return -1;
  }
  std::vector<float> times;
  for (int round = 0; round < 6; ++round) {
    cudaEventRecord(begin, cudaStreamPerThread);
    for (int i = 0; i < count; ++i) {
      if (work() != cudaSuccess) return -1;
    }
    cudaEventRecord(end, cudaStreamPerThread);
    float milliseconds = 0;
    if (cudaEventSynchronize(end) != cudaSuccess ||
        cudaEventElapsedTime(&milliseconds, begin, end) != cudaSuccess) {
      return -1;
    }
    if (round > 0) times.push_back(milliseconds / count);
  }
  std::nth_element(times.begin(), times.begin() + 2, times.end());
  return times[2];
}

}  // namespace engram

// A kernel that does nothing, to see what one costs beyond its work.
#pragma once

#include <cuda_runtime.h>

namespace engram {

// Puts it into the stream with 132 blocks, one a multiprocessor of an H100.
cudaError_t LaunchEmptyKernel(cudaStream_t stream, bool overlaps);

}  // namespace engram

// Which device the runtime's calls of a thread are about.
#pragma once

#include <cuda_runtime.h>

namespace engram::cuda {

// Makes `device` current on this thread. Costs next to nothing where it is so
// already. Nothing else in the program may call cudaSetDevice once this has
// been called on the same thread.
cudaError_t MakeCurrent(int device);

}  // namespace engram::cuda

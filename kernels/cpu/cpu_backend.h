// The CPU back end: host memory, a thread pool, and Highway kernels in the
// files beside this one.
#pragma once

#include <memory>

#include "kernels/backend.h"

namespace engram {

// Operations run on their caller and on the threads of `pool`, which other back
// ends may use too.
std::unique_ptr<Backend> MakeCpuBackend(std::shared_ptr<cpu::ThreadPool> pool);

}  // namespace engram

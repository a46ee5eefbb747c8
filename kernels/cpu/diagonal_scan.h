// The diagonal SSM of H3 and S4D, for prefill and decode alike.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// See Backend::DiagonalScan.
void DiagonalScan(ThreadPool& threads, const StepRows& step,
                  const DiagonalScanArguments& arguments);

}  // namespace engram::cpu

// Mamba's selective scan, for prefill and decode alike.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// See Backend::SelectiveScan.
void SelectiveScan(ThreadPool& threads, const StepRows& step,
                   const SelectiveScanArguments& arguments);

}  // namespace engram::cpu

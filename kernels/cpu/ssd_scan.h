// Mamba-2's scan, for prefill and decode alike.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// See Backend::SsdScan.
void SsdScan(ThreadPool& threads, const StepRows& step,
             const SsdScanArguments& arguments);

}  // namespace engram::cpu

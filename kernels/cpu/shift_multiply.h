// H3's shift SSM and its product, for prefill and decode alike.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// See Backend::ShiftMultiply.
void ShiftMultiply(ThreadPool& threads, const StepRows& step,
                   const ShiftMultiplyArguments& arguments);

}  // namespace engram::cpu

// Softmax attention over blocks of keys and values, for prefill and decode
// alike.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// See Backend::Attention.
void Attention(ThreadPool& threads, const StepRows& step,
               const AttentionArguments& arguments);

}  // namespace engram::cpu

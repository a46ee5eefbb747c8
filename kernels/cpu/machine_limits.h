// Work that a machine's processors can do no faster: what the speed of kernels
// is told as a share of. Whoever calls these takes the time.
#pragma once

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// All of the pool's threads do each at once, and it takes some milliseconds or
// more.

// Multiply-adds of float32, in vectors of the width that the kernels use, none
// of which waits for memory. How many floating-point operations were done, two
// for each multiply-add.
int64_t MultiplyAndAdd(ThreadPool* threads);

// Reads `memory` once, each thread in several places at a time: if it is far
// larger than all caches, from the memory itself. REQUIRES: the sum of its
// values is finite.
void ReadMemory(absl::Span<const float> memory, ThreadPool* threads);

// The instructions that the kernels use here, as Highway calls them: "AVX2".
std::string InstructionSet();

}  // namespace engram::cpu

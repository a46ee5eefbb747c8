// CountingBackend: a back end that has no memory, but counts how much another
// one would have taken for what it is asked. Loading a model with it tells what
// loading it in earnest will take.
//
// Buffers and packed weights know their sizes and nothing else; nothing may be
// computed with them.
#pragma once

#include <cstddef>
#include <memory>

#include "kernels/backend.h"

namespace engram {

// What there is of what was asked for; sums that do not fit are the largest
// size_t.
struct CountedMemory {
  size_t device = 0;
  // The most that there was of it at a time, while weights were packed.
  size_t most = 0;
  size_t pinned = 0;
};

// Both must outlive the back end, whose buffers may be outlived by neither.
std::unique_ptr<Backend> MakeCountingBackend(const Backend* like,
                                             CountedMemory* memory);

}  // namespace engram

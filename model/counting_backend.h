// CountingBackend: a back end that has no memory, but counts how much it was
// asked for. Loading a model with it tells what loading it in earnest will
// take.
//
// Buffers and packed weights know their sizes and nothing else; nothing may be
// computed with them.
#pragma once

#include <cstddef>
#include <memory>

#include "kernels/backend.h"

namespace engram {

// `bytes` is added to, and must outlive the back end; at most the largest
// size_t.
std::unique_ptr<Backend> MakeCountingBackend(size_t* bytes);

// The sum and the product, or the largest size_t if that is less.
size_t AddSizes(size_t a, size_t b);
size_t MultiplySizes(size_t a, size_t b);

}  // namespace engram

// Copies and fills of the emulated device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "tests/cuda_emulation/device/queue.h"

namespace engram::emulation {

struct Copy {
  char* target;
  const char* source;
  size_t bytes;
  bool to_device;
  bool from_device;
  // One side is host memory that a device cannot reach by itself.
  bool pageable;
};

// Finds out where the bytes of a copy by `device` lie. cudaErrorInvalidValue if
// one side is not what `kind` says, or not all of one allocation of it.
cudaError_t Resolve(void* target, const void* source, size_t bytes,
                    cudaMemcpyKind kind, int device, Copy* copy);

// The copy as work of a stream. From when it is begun until it runs, host
// memory that it reads may not change, and what it writes there is no number.
Work BeginCopy(const Copy& copy);
void Run(const Copy& copy);

}  // namespace engram::emulation

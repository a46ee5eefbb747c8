#include "tests/cuda_emulation/device/refuse.h"

#include <cuda_runtime.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace engram::emulation {

void Refuse(const Site& site, const char* format, ...) {
  std::fprintf(stderr,
               "%s:%u: emulated device, thread (%u, %u, %u) of block (%u, %u, "
               "%u): ",
               site.file_name(), site.line(), threadIdx.x, threadIdx.y,
               threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::abort();
}

}  // namespace engram::emulation

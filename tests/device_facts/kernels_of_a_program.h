// The kernels in a program's file, as the device has loaded them.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <vector>

namespace engram {

// The pieces of `.nv_fatbin` in the ELF file `program`, each one source file's
// kernels for all targets; none if it has no such section.
// Source: nvcc's fatbinary, a header of magic number, version, its own size and
// the size of what follows.
std::vector<std::string> FatBinaries(const std::string& program);

struct LoadedKernel {
  std::string name;
  cudaFuncAttributes attributes;
  int blocks = 0;  // of a multiprocessor, without dynamic shared memory
};

// Loads all of them. An error is the first there was.
cudaError_t LoadKernels(const std::string& fat_binary,
                        std::vector<LoadedKernel>* kernels);

}  // namespace engram

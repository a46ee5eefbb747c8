// Which bytes of a slab are a piece that somebody has, told to the tools that
// look for accesses to memory that is nobody's: the emulated device for its
// memory, AddressSanitizer for the host's. Elsewhere nothing.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace engram::cuda {

// All of the slab is nobody's at first.
inline void MarkSlab([[maybe_unused]] bool is_on_device,
                     [[maybe_unused]] void* slab,
                     [[maybe_unused]] size_t bytes) {
#if defined(ENGRAM_CUDA_EMULATION)
  if (is_on_device) return emulation::DivideAllocation(slab);
#endif
#if defined(__SANITIZE_ADDRESS__)
  if (!is_on_device) __asan_poison_memory_region(slab, bytes);
#endif
}

inline void MarkPiece([[maybe_unused]] bool is_on_device,
                      [[maybe_unused]] void* piece,
                      [[maybe_unused]] size_t bytes) {
#if defined(ENGRAM_CUDA_EMULATION)
  if (is_on_device) return emulation::BeginPiece(piece, bytes);
#endif
#if defined(__SANITIZE_ADDRESS__)
  if (!is_on_device) __asan_unpoison_memory_region(piece, bytes);
#endif
}

inline void UnmarkPiece([[maybe_unused]] bool is_on_device,
                        [[maybe_unused]] void* piece,
                        [[maybe_unused]] size_t bytes) {
#if defined(ENGRAM_CUDA_EMULATION)
  if (is_on_device) return emulation::EndPiece(piece);
#endif
#if defined(__SANITIZE_ADDRESS__)
  if (!is_on_device) __asan_poison_memory_region(piece, bytes);
#endif
}

// Before the runtime gets it back.
inline void UnmarkSlab([[maybe_unused]] bool is_on_device,
                       [[maybe_unused]] void* slab,
                       [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  if (!is_on_device) __asan_unpoison_memory_region(slab, bytes);
#endif
}

}  // namespace engram::cuda

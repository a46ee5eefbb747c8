// Flushing of denormal numbers to zero in the calling thread.
//
// States that decay towards zero end as denormals, which many processors handle
// ten to a hundred times slower. The mode belongs to a thread, so every thread
// that computes sets it for itself.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace engram::cpu {

// Flushes denormal inputs and results for its lifetime, then restores the mode
// that it found: the calling thread is not ours.
class ScopedFlushDenormals {
 public:
  ScopedFlushDenormals() : previous_(Mode()) { SetMode(previous_ | kFlush); }
  ~ScopedFlushDenormals() { SetMode(previous_); }

  ScopedFlushDenormals(const ScopedFlushDenormals&) = delete;
  ScopedFlushDenormals& operator=(const ScopedFlushDenormals&) = delete;

 private:
#if defined(__x86_64__)
  // MXCSR: bit 15 flushes results, bit 6 reads denormal inputs as zero.
  static constexpr uint64_t kFlush = 0x8040;
  static uint64_t Mode() { return _mm_getcsr(); }
  static void SetMode(uint64_t mode) {
    _mm_setcsr(static_cast<unsigned int>(mode));
  }
#elif defined(__aarch64__)
  // FPCR: bit 24 does both.
  static constexpr uint64_t kFlush = uint64_t{1} << 24;
  static uint64_t Mode() {
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void SetMode(uint64_t mode) {
    asm volatile("msr fpcr, %0" : : "r"(mode));
  }
#else
  static constexpr uint64_t kFlush = 0;
  static uint64_t Mode() { return 0; }
  static void SetMode(uint64_t) {}
#endif

  const uint64_t previous_;
};

}  // namespace engram::cpu

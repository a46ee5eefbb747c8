// What the sanitizers must be told where memory and threads are not what they
// look like. In a build without them all of this is nothing.
#pragma once

#include <cstddef>

#include "tests/support/sanitizers.h"

#ifdef ENGRAM_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif
#ifdef ENGRAM_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace engram::emulation {

// What happened before Release(x) in one thread has happened for those that
// come to Acquire(x) later.
inline void Release([[maybe_unused]] const void* order) {
#ifdef ENGRAM_THREAD_SANITIZER
  __tsan_release(const_cast<void*>(order));
#endif
}
inline void Acquire([[maybe_unused]] const void* order) {
#ifdef ENGRAM_THREAD_SANITIZER
  __tsan_acquire(const_cast<void*>(order));
#endif
}

// Nobody gives it back, and that is right.
inline void IgnoreLeak([[maybe_unused]] const void* object) {
#ifdef ENGRAM_ADDRESS_SANITIZER
  __lsan_ignore_object(object);
#endif
}

// While it lives, what this thread of execution reads and writes is the
// emulation's own, in which there are no races: one fibre runs at a time.
class Unseen {
 public:
#ifdef ENGRAM_THREAD_SANITIZER
  Unseen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unseen() {}
#endif
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

}  // namespace engram::emulation

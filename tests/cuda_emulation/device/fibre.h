// Fibre: a thread of execution with a stack of its own that runs when it is
// told to, and no longer. Its stack ends at a page that cannot be touched.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) || defined(ENGRAM_FIBRES_OF_UCONTEXT)
#define ENGRAM_FIBRES_ARE_OF_UCONTEXT 1
#include <ucontext.h>
#endif

namespace engram::emulation {

class Fibre {
 public:
  // The code that is running now, on the stack that it has.
  Fibre();
  // Begins with `entry`, which never returns, when it is first switched to.
  explicit Fibre(void (*entry)());
  ~Fibre();
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;

  // Leaves `from`, which is running, and goes on where `to` was left.
  static void Switch(Fibre& from, Fibre& to);

 private:
  static void Enter();
  static void Arrived(Fibre& at);

#ifdef ENGRAM_FIBRES_ARE_OF_UCONTEXT
  ucontext_t state_ = {};
#else
  void* stack_pointer_ = nullptr;
#endif
  void (*entry_)() = nullptr;
  // Of stacks, all but the guard; unknown (null) for those that are not ours
  // until they are left.
  [[maybe_unused]] const void* bottom_ = nullptr;
  [[maybe_unused]] size_t stack_bytes_ = 0;
  void* memory_ = nullptr;
  [[maybe_unused]] void* thread_sanitizer_fibre_ = nullptr;
  [[maybe_unused]] void* address_sanitizer_stack_ = nullptr;
};

}  // namespace engram::emulation

#include "tests/cuda_emulation/device/fibre.h"

#include <sys/mman.h>

#include <cstdint>

#include "tests/cuda_emulation/device/refuse.h"
#include "tests/cuda_emulation/device/sanitizer.h"

#ifndef ENGRAM_FIBRES_ARE_OF_UCONTEXT
// What a call has to keep goes onto the stack that is left, and comes from the
// other. swapcontext does more: it enters the kernel for the signal mask.
asm(R"(
.text
.type engram_switch_stack, @function
engram_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size engram_switch_stack, .-engram_switch_stack
)");
extern "C" void engram_switch_stack(void** left, void** entered);
#endif

namespace engram::emulation {
namespace {

// Sanitizers make frames larger.
constexpr size_t kStackBytes =
    kThreadSanitizer || kAddressSanitizer ? 256 * 1024 : 64 * 1024;
constexpr size_t kGuardBytes = 4096;

// Of the switch that is under way; one device runs at a time.
Fibre* left = nullptr;
Fibre* entered = nullptr;

}  // namespace

Fibre::Fibre() {
#ifdef ENGRAM_THREAD_SANITIZER
  thread_sanitizer_fibre_ = __tsan_get_current_fiber();
#endif
}

Fibre::Fibre(void (*entry)()) : entry_(entry), stack_bytes_(kStackBytes) {
  memory_ = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory_ == MAP_FAILED || mprotect(memory_, kGuardBytes, PROT_NONE) != 0) {
    Refuse(Site::current(), "no memory for another stack");
  }
  char* const bottom = static_cast<char*>(memory_) + kGuardBytes;
  bottom_ = bottom;
#ifdef ENGRAM_THREAD_SANITIZER
  thread_sanitizer_fibre_ = __tsan_create_fiber(0);
#endif
#ifdef ENGRAM_FIBRES_ARE_OF_UCONTEXT
  getcontext(&state_);
  state_.uc_stack.ss_sp = bottom;
  state_.uc_stack.ss_size = kStackBytes;
  state_.uc_link = nullptr;
  makecontext(&state_, &Fibre::Enter, 0);
#else
  constexpr int kSavedRegisters = 6;
  auto* top = reinterpret_cast<uintptr_t*>(bottom + kStackBytes);
  *--top = 0;  // in place of where a call would return to
  *--top = reinterpret_cast<uintptr_t>(&Fibre::Enter);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = 0;
  stack_pointer_ = top;
#endif
}

Fibre::~Fibre() {
  if (memory_ == nullptr) return;
#ifdef ENGRAM_THREAD_SANITIZER
  __tsan_destroy_fiber(thread_sanitizer_fibre_);
#endif
#ifdef ENGRAM_ADDRESS_SANITIZER
  // Frames that were never left.
  ASAN_UNPOISON_MEMORY_REGION(bottom_, stack_bytes_);
#endif
  munmap(memory_, kGuardBytes + kStackBytes);
}

void Fibre::Enter() {
  void (*entry)() = nullptr;
  {
    const Unseen unseen;
    Arrived(*entered);
    entry = entered->entry_;
  }
  entry();
}

void Fibre::Arrived([[maybe_unused]] Fibre& at) {
#ifdef ENGRAM_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(at.address_sanitizer_stack_, &left->bottom_,
                                  &left->stack_bytes_);
#endif
}

void Fibre::Switch(Fibre& from, Fibre& to) {
#ifdef ENGRAM_THREAD_SANITIZER
  void* const entered_fibre = [&] {
    const Unseen unseen;
    return to.thread_sanitizer_fibre_;
  }();
#endif
  {
    const Unseen unseen;
    left = &from;
    entered = &to;
  }
#ifdef ENGRAM_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(&from.address_sanitizer_stack_, to.bottom_,
                                 to.stack_bytes_);
#endif
#ifdef ENGRAM_THREAD_SANITIZER
  // That one runs after the other orders nothing between them.
  __tsan_switch_to_fiber(entered_fibre, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef ENGRAM_FIBRES_ARE_OF_UCONTEXT
  swapcontext(&from.state_, &to.state_);
#else
  engram_switch_stack(&from.stack_pointer_, &to.stack_pointer_);
#endif
  Arrived(from);
}

}  // namespace engram::emulation

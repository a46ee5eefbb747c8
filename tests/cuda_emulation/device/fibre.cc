#include "tests/cuda_emulation/device/fibre.h"

#include <sys/mman.h>

#include <cstdint>
#include <source_location>

#include "tests/cuda_emulation/device/refuse.h"

// What a call has to keep goes onto the stack that is left, and comes from the
// other.
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
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size engram_switch_stack, .-engram_switch_stack
)");
extern "C" void engram_switch_stack(void** left, void* entered);

namespace engram::emulation {
namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kGuardBytes = 4096;
constexpr int kSavedRegisters = 6;

}  // namespace

Fibre::Fibre() = default;

Fibre::Fibre(void (*entry)()) {
  void* const memory =
      mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
    Refuse(std::source_location::current(), "no memory for another stack");
  }
  stack_ = static_cast<char*>(memory);
  auto* top = reinterpret_cast<uintptr_t*>(stack_ + kGuardBytes + kStackBytes);
  *--top = 0;  // in place of where a call would return to
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = 0;
  stack_pointer_ = top;
}

Fibre::~Fibre() {
  if (stack_ != nullptr) munmap(stack_, kGuardBytes + kStackBytes);
}

void Fibre::Switch(Fibre& from, Fibre& to) {
  engram_switch_stack(&from.stack_pointer_, to.stack_pointer_);
}

}  // namespace engram::emulation

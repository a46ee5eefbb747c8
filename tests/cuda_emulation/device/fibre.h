// Fibre: a thread of execution with a stack of its own that runs when it is
// told to, and no longer. Its stack ends at a page that cannot be touched.
#pragma once

#include <cstddef>

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
  void* stack_pointer_ = nullptr;
  char* stack_ = nullptr;
};

}  // namespace engram::emulation

// Block: the threads of one block of a kernel.
//
// A fibre runs one thread after the other to its end. Only where a thread has
// to wait for others does another fibre take over, so that kernels without
// barriers cost calls alone. ThreadSanitizer is shown a fibre for each thread.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "emulated_device.h"
#include "tests/cuda_emulation/device/block_memory.h"
#include "tests/cuda_emulation/device/fibre.h"
#include "tests/cuda_emulation/device/kernel_run.h"
#include "tests/cuda_emulation/device/matrix_product.h"
#include "tests/cuda_emulation/device/visit_order.h"

namespace engram::emulation {

class Block {
 public:
  // `in_order`: all threads see from their beginning what was done before, and
  // not only from GridWait on.
  Block(const KernelLaunch& kernel, bool in_order);

  // Takes another block. REQUIRES: the one before is done.
  void Begin(uint3 index, uint64_t seed);
  // Until all threads are at GridWait.
  void RunToGridWait();
  // Until all threads are done.
  void Run();

  // --- What the thread that runs asks for.
  void Barrier(const Site& site);
  uint64_t Meet(WarpOperation operation, uint64_t value, int argument,
                const Site& site);
  void Multiply(WarpOperation operation, float* acc, const uint32_t* a,
                const uint32_t* b, const Site& site);
  void LoadTurned(uint32_t* out, const void* row, const Site& site);
  void GridWait(const Site& site);
  void GridTrigger(const Site& site);
  void BeginCopy(void* shared, const void* global, const Site& site);
  void CommitCopies();
  void FinishCopies(int groups_left);
  BlockMemory& memory() { return memory_; }

 private:
  static constexpr int kWarp = 32;

  struct PendingCopy {
    void* shared;
    const void* global;
    Site site;
  };
  enum class State { kRunning, kAtBarrier, kInWarp, kAtGridWait, kDone };
  struct Thread {
    Fibre* fibre = nullptr;
    State state = State::kRunning;
    Site site;
    bool waited = false;
    bool triggered = false;
    std::vector<PendingCopy> copies;  // oldest first
    std::vector<size_t> groups;       // copies in each committed group
  };
  struct Warp {
    int arrived = 0;
    uint64_t round = 0;
    WarpOperation operation = WarpOperation::kBarrier;
    Site site;
    uint64_t values[kWarp];
    int arguments[kWarp];
    uint64_t results[kWarp];
    MatrixOperands operands[kWarp];
    char orders[2];  // of the barriers of even and of odd rounds
  };

  // What a fibre does: threads that have not begun, until there are none.
  static void RunThreads();
  static Fibre* NewFibre();
  // Runs threads until none can go on.
  void Resume();
  void EnterKernel();
  void LeaveKernel();
  bool BeginNext();
  void Finish();
  void SetIndex(uint32_t thread);
  // Lets others run until this thread is made ready.
  void Park(State state, const Site& site);
  // The fibre that goes on when this one cannot.
  Fibre& Successor();
  // Whether this lane is the last of its warp to come.
  bool Arrive(Warp& warp, WarpOperation operation, const Site& site);
  void ReleaseWarp();
  static void Exchange(Warp& warp);
  // What all lanes of a warp get whose rows' addresses are its values.
  static void TurnRows(Warp& warp);
  [[noreturn]] void RefuseStandstill();

  const KernelLaunch& kernel_;
  const bool in_order_;
  const uint32_t count_;
  uint3 index_ = {};
  std::optional<VisitOrder> order_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  BlockMemory memory_;
  std::vector<uint32_t> ready_;
  size_t next_ready_ = 0;
  uint32_t begun_ = 0;
  uint32_t next_ = 0;  // to begin
  uint32_t done_ = 0;
  uint32_t current_ = 0;
  bool stops_at_grid_wait_ = false;
  uint32_t at_barrier_ = 0;
  uint64_t barrier_round_ = 0;
  Site barrier_site_;
  char barrier_orders_[2];
};

// The block that runs.
extern Block* running_block;
// What ThreadSanitizer is to know of kernels in their order: what was done when
// one was launched, what when it may rely on those before, and what at its end.
struct KernelOrder {
  char launched;
  char complete;
  char ended;
};
extern KernelOrder kernel_order;

}  // namespace engram::emulation

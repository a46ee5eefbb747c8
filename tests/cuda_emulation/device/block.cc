#include "tests/cuda_emulation/device/block.h"

#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "emulated_device.h"
#include "kernels/cpu/flush_denormals.h"
#include "tests/cuda_emulation/device/device_memory.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/fibre.h"
#include "tests/cuda_emulation/device/matrix_product.h"
#include "tests/cuda_emulation/device/refuse.h"
#include "tests/cuda_emulation/device/visit_order.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace engram::emulation {
namespace {

constexpr int kWarp = 32;
constexpr size_t kMostSharedBytes = 227 * 1024;
constexpr int kNoNumber = 0xff;

const char* NameOf(WarpOperation operation) {
  switch (operation) {
    case WarpOperation::kBarrier:
      return "WarpBarrier";
    case WarpOperation::kShuffleXor:
      return "ShuffleXor";
    case WarpOperation::kShuffleFrom:
      return "ShuffleFrom";
    case WarpOperation::kShuffleUp:
      return "ShuffleUp";
    case WarpOperation::kShuffleDown:
      return "ShuffleDown";
    case WarpOperation::kBallot:
      return "Ballot";
    case WarpOperation::kMmaBf16:
      return "MmaBf16";
    case WarpOperation::kMmaF16:
      return "MmaF16";
  }
  return "?";
}

bool SameSite(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         std::strcmp(a.file_name(), b.file_name()) == 0;
}

// The shared memory of the block that runs: its end is the end of what can be
// touched.
class SharedBytes {
 public:
  SharedBytes() {
    void* const memory =
        mmap(nullptr, kPages + 2 * kGuard, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    begin_ = static_cast<char*>(memory) + kGuard;
    if (memory == MAP_FAILED ||
        mprotect(begin_, kPages, PROT_READ | PROT_WRITE) != 0) {
      Refuse(Site::current(), "no memory for a block's shared memory");
    }
  }
  ~SharedBytes() { munmap(begin_ - kGuard, kPages + 2 * kGuard); }
  SharedBytes(const SharedBytes&) = delete;
  SharedBytes& operator=(const SharedBytes&) = delete;

  void Assign(size_t bytes) {
    bytes_ = bytes;
    const size_t kept = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    data_ = begin_ + kPages - kept;
    std::memset(data_, kNoNumber, kept);
  }
  char* data() const { return data_; }
  bool Contains(const void* address, size_t bytes) const {
    const size_t offset = static_cast<const char*>(address) - data_;
    return offset <= bytes_ && bytes <= bytes_ - offset;
  }

 private:
  static constexpr size_t kAlignment = 128;
  static constexpr size_t kGuard = 64 * 1024;
  static constexpr size_t kPages = (kMostSharedBytes + 4095) / 4096 * 4096;

  char* begin_;
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

struct PendingCopy {
  void* shared;
  const void* global;
};

enum class ThreadState { kRunning, kAtBarrier, kAtWarp, kAtGridWait, kDone };

struct Thread {
  Fibre* fibre = nullptr;
  ThreadState state = ThreadState::kRunning;
  Site site;
  bool waited = false;
  bool triggered = false;
  std::vector<std::vector<PendingCopy>> copy_groups;  // committed, oldest first
  std::vector<PendingCopy> copies;                    // not yet committed
};

struct Warp {
  int arrived = 0;
  WarpOperation operation = WarpOperation::kBarrier;
  Site site;
  uint64_t values[kWarp];
  int arguments[kWarp];
  uint64_t results[kWarp];
  MatrixOperands operands[kWarp];
};

class Block {
 public:
  Block(const KernelLaunch& kernel, uint3 index, uint64_t seed,
        SharedBytes& shared);

  // To where all threads are done.
  void Run();

  // --- Of the thread that runs.
  void Barrier(const Site& site);
  uint64_t Meet(WarpOperation operation, uint64_t value, int argument,
                const Site& site);
  void Multiply(WarpOperation operation, float* acc, const uint32_t* a,
                const uint32_t* b, const Site& site);
  void GridWait(const Site& site);
  void GridTrigger(const Site& site);
  Thread& thread() { return threads_[current_]; }
  SharedBytes& shared() { return shared_; }

 private:
  // What a fibre does: threads that have not begun, until there are none.
  [[noreturn]] static void RunThreads();

  bool BeginNext();
  void Finish();
  void SetIndex(uint32_t thread);
  // Lets others run until this thread is made ready.
  void Park(ThreadState state, const Site& site);
  void MakeReady(uint32_t thread);
  // The fibre that goes on when this one cannot.
  Fibre& Successor();
  Warp& Arrive(WarpOperation operation, const Site& site, bool* last);
  void ReleaseWarp();
  [[noreturn]] void RefuseStandstill();

  const KernelLaunch& kernel_;
  SharedBytes& shared_;
  uint32_t count_;
  VisitOrder order_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<uint32_t> ready_;
  size_t next_ready_ = 0;
  uint32_t begun_ = 0;
  uint32_t done_ = 0;
  uint32_t current_ = 0;
  uint32_t at_barrier_ = 0;
  Site barrier_site_;
};

// The block that runs, the fibre that runs, and those that have nothing to do.
Block* block = nullptr;
Fibre* main_fibre = nullptr;
Fibre* running_fibre = nullptr;
std::vector<std::unique_ptr<Fibre>> all_fibres;
std::vector<Fibre*> idle_fibres;

void SwitchTo(Fibre& next) {
  Fibre& from = *running_fibre;
  running_fibre = &next;
  Fibre::Switch(from, next);
}

uint32_t ThreadsOf(const dim3& block) { return block.x * block.y * block.z; }

Block::Block(const KernelLaunch& kernel, uint3 index, uint64_t seed,
             SharedBytes& shared)
    : kernel_(kernel),
      shared_(shared),
      count_(ThreadsOf(kernel.block)),
      order_(count_, seed),
      threads_(count_),
      warps_((count_ + kWarp - 1) / kWarp) {
  blockIdx = index;
}

void Block::Run() {
  block = this;
  SwitchTo(Successor());
  block = nullptr;
  if (done_ != count_) RefuseStandstill();
}

void Block::RunThreads() {
  for (;;) {
    while (block->next_ready_ == block->ready_.size() && block->BeginNext()) {
      block->kernel_.thread();
      block->Finish();
    }
    idle_fibres.push_back(running_fibre);
    SwitchTo(block->Successor());
  }
}

bool Block::BeginNext() {
  if (begun_ == count_) return false;
  const uint32_t next = order_.at(begun_++);
  threads_[next].fibre = running_fibre;
  SetIndex(next);
  return true;
}

void Block::SetIndex(uint32_t thread) {
  current_ = thread;
  const dim3& size = kernel_.block;
  if (size.y == 1 && size.z == 1) {
    threadIdx = {thread, 0, 0};
  } else {
    threadIdx = {thread % size.x, thread / size.x % size.y,
                 thread / size.x / size.y};
  }
}

void Block::Finish() {
  Thread& thread = threads_[current_];
  if (!thread.waited || !thread.triggered) {
    Refuse(Site::current(),
           "a kernel is left without GridWait and then GridTrigger");
  }
  thread.state = ThreadState::kDone;
  ++done_;
}

Fibre& Block::Successor() {
  if (next_ready_ < ready_.size()) {
    const uint32_t next = ready_[next_ready_++];
    if (next_ready_ == ready_.size()) {
      ready_.clear();
      next_ready_ = 0;
    }
    SetIndex(next);
    threads_[next].state = ThreadState::kRunning;
    return *threads_[next].fibre;
  }
  if (begun_ == count_) return *main_fibre;
  if (idle_fibres.empty()) {
    all_fibres.push_back(std::make_unique<Fibre>(&Block::RunThreads));
    return *all_fibres.back();
  }
  Fibre* const idle = idle_fibres.back();
  idle_fibres.pop_back();
  return *idle;
}

void Block::Park(ThreadState state, const Site& site) {
  Thread& thread = threads_[current_];
  thread.state = state;
  thread.site = site;
  SwitchTo(Successor());
}

void Block::MakeReady(uint32_t thread) { ready_.push_back(thread); }

void Block::Barrier(const Site& site) {
  if (at_barrier_ == 0) {
    barrier_site_ = site;
  } else if (!SameSite(site, barrier_site_)) {
    Refuse(site, "a barrier, while others of the block wait at that of %s:%u",
           barrier_site_.file_name(),
           static_cast<unsigned>(barrier_site_.line()));
  }
  if (++at_barrier_ < count_) {
    Park(ThreadState::kAtBarrier, site);
    return;
  }
  at_barrier_ = 0;
  for (uint32_t i = 0; i < count_; ++i) {
    const uint32_t waiting = order_.at(i);
    if (waiting != current_) MakeReady(waiting);
  }
}

Warp& Block::Arrive(WarpOperation operation, const Site& site, bool* last) {
  const uint32_t first = current_ / kWarp * kWarp;
  if (first + kWarp > count_) {
    Refuse(site, "%s in a warp of %u threads", NameOf(operation),
           count_ - first);
  }
  Warp& warp = warps_[current_ / kWarp];
  if (warp.arrived == 0) {
    warp.operation = operation;
    warp.site = site;
  } else if (operation != warp.operation || !SameSite(site, warp.site)) {
    Refuse(site, "%s, while others of the warp wait at %s of %s:%u",
           NameOf(operation), NameOf(warp.operation), warp.site.file_name(),
           static_cast<unsigned>(warp.site.line()));
  }
  *last = ++warp.arrived == kWarp;
  return warp;
}

void Block::ReleaseWarp() {
  warps_[current_ / kWarp].arrived = 0;
  const uint32_t first = current_ / kWarp * kWarp;
  for (uint32_t waiting = first; waiting < first + kWarp; ++waiting) {
    if (waiting != current_) MakeReady(waiting);
  }
}

void Exchange(Warp& warp) {
  unsigned ballot = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (warp.values[lane] != 0) ballot |= 1u << lane;
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    int from = lane;
    switch (warp.operation) {
      case WarpOperation::kShuffleXor:
        from = lane ^ warp.arguments[lane];
        break;
      case WarpOperation::kShuffleFrom:
        from = warp.arguments[lane];
        break;
      case WarpOperation::kShuffleUp:
        from = lane - warp.arguments[lane];
        break;
      case WarpOperation::kShuffleDown:
        from = lane + warp.arguments[lane];
        break;
      case WarpOperation::kBallot:
        warp.results[lane] = ballot;
        continue;
      default:
        continue;
    }
    if (from < 0 || from >= kWarp) from = lane;
    warp.results[lane] = warp.values[from];
  }
}

uint64_t Block::Meet(WarpOperation operation, uint64_t value, int argument,
                     const Site& site) {
  if (operation == WarpOperation::kShuffleFrom &&
      (argument < 0 || argument >= kWarp)) {
    Refuse(site, "ShuffleFrom of lane %d", argument);
  }
  bool last = false;
  Warp& warp = Arrive(operation, site, &last);
  const uint32_t lane = current_ % kWarp;
  warp.values[lane] = value;
  warp.arguments[lane] = argument;
  if (last) {
    Exchange(warp);
    ReleaseWarp();
  } else {
    Park(ThreadState::kAtWarp, site);
  }
  return warp.results[lane];
}

void Block::Multiply(WarpOperation operation, float* acc, const uint32_t* a,
                     const uint32_t* b, const Site& site) {
  bool last = false;
  Warp& warp = Arrive(operation, site, &last);
  MatrixOperands& own = warp.operands[current_ % kWarp];
  std::memcpy(own.a, a, sizeof(own.a));
  std::memcpy(own.b, b, sizeof(own.b));
  std::memcpy(own.acc, acc, sizeof(own.acc));
  if (last) {
    MultiplyAdd(operation == WarpOperation::kMmaF16, options().fused_mma,
                warp.operands);
    ReleaseWarp();
  } else {
    Park(ThreadState::kAtWarp, site);
  }
  std::memcpy(acc, own.acc, sizeof(own.acc));
}

void Block::GridWait(const Site& site) {
  Thread& thread = threads_[current_];
  if (thread.triggered) Refuse(site, "GridWait behind GridTrigger");
  thread.waited = true;
}

void Block::GridTrigger(const Site& site) {
  Thread& thread = threads_[current_];
  if (!thread.waited) Refuse(site, "GridTrigger before GridWait");
  thread.triggered = true;
}

void Block::RefuseStandstill() {
  for (uint32_t i = 0; i < count_; ++i) {
    const Thread& thread = threads_[i];
    if (thread.state == ThreadState::kDone) continue;
    SetIndex(i);
    Refuse(thread.site,
           thread.state == ThreadState::kAtBarrier
               ? "waits at a barrier that others of the block never come to"
               : "waits for lanes of its warp that never come");
  }
  Refuse(Site::current(), "a block is left undone");
}

}  // namespace

void RunKernel(const KernelLaunch& kernel) {
  // As nvcc's -ftz=true.
  const cpu::ScopedFlushDenormals flush;
  static SharedBytes* const shared = new SharedBytes;
  static uint64_t launches = 0;
  const uint64_t seed = options().seed + 0x9e3779b97f4a7c15 * ++launches;
  Fibre main;
  main_fibre = running_fibre = &main;
  blockDim = kernel.block;
  gridDim = kernel.grid;
  const uint64_t count =
      uint64_t{kernel.grid.x} * kernel.grid.y * kernel.grid.z;
  const VisitOrder order(count, seed);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = order.at(i);
    const uint3 index = {
        static_cast<unsigned>(at % kernel.grid.x),
        static_cast<unsigned>(at / kernel.grid.x % kernel.grid.y),
        static_cast<unsigned>(at / kernel.grid.x / kernel.grid.y)};
    shared->Assign(kernel.shared_bytes);
    Block(kernel, index, seed + at, *shared).Run();
  }
  main_fibre = running_fibre = nullptr;
}

// --- What kernels call.

void* SharedMemory() { return block->shared().data(); }
void WaitForBlock(const Site& site) { block->Barrier(site); }
uint64_t MeetInWarp(WarpOperation operation, uint64_t value, int argument,
                    const Site& site) {
  return block->Meet(operation, value, argument, site);
}
void MultiplyInWarp(WarpOperation operation, float* acc, const uint32_t* a,
                    const uint32_t* b, const Site& site) {
  block->Multiply(operation, acc, a, b, site);
}
void WaitForGrid(const Site& site) { block->GridWait(site); }
void TriggerGrid(const Site& site) { block->GridTrigger(site); }

void BeginCopy16(void* shared, const void* global, const Site& site) {
  if (!block->shared().Contains(shared, 16)) {
    Refuse(site, "AsyncCopy16 to %p, which is not in shared memory", shared);
  }
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0) {
    Refuse(site, "AsyncCopy16 to %p, which is not aligned to 16 bytes", shared);
  }
  DataAt(global, 16, site);
  std::memset(shared, kNoNumber, 16);
  block->thread().copies.push_back({shared, global});
}

void CommitCopies() {
  Thread& thread = block->thread();
  thread.copy_groups.push_back(std::move(thread.copies));
  thread.copies.clear();
}

void FinishCopies(int groups_left) {
  auto& groups = block->thread().copy_groups;
  if (groups.size() <= static_cast<size_t>(groups_left)) return;
  const auto end = groups.end() - groups_left;
  for (auto group = groups.begin(); group != end; ++group) {
    for (const PendingCopy& copy : *group) {
      std::memcpy(copy.shared, DataAt(copy.global, 16, Site::current()), 16);
    }
  }
  groups.erase(groups.begin(), end);
}

void* AtomicAt(void* address, size_t bytes, const Site& site) {
  if (block->shared().Contains(address, bytes)) {
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
      Refuse(site, "an atomic of %zu bytes at %p", bytes, address);
    }
    return address;
  }
  return DataAt(address, bytes, site);
}

}  // namespace engram::emulation

#include "tests/cuda_emulation/device/block.h"

#include <cstring>
#include <deque>
#include <memory>
#include <utility>

#include "tests/cuda_emulation/device/device_memory.h"
#include "tests/cuda_emulation/device/emulation.h"
#include "tests/cuda_emulation/device/refuse.h"
#include "tests/cuda_emulation/device/sanitizer.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace engram::emulation {

Block* running_block = nullptr;
KernelOrder kernel_order;

namespace {

// ThreadSanitizer takes what one fibre does for a sequence, and what a fibre
// did before it makes another for something that the other has seen. So the
// next threads are to be on others than those before, which are made in
// advance.
constexpr size_t kIdleFibres = kThreadSanitizer ? 256 : 0;

Fibre* main_fibre = nullptr;
Fibre* running_fibre = nullptr;
std::deque<Fibre*>& idle_fibres = *new std::deque<Fibre*>;

void SwitchTo(Fibre& next) {
  Fibre& from = *running_fibre;
  if (&from == &next) return;
  running_fibre = &next;
  Fibre::Switch(from, next);
}

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
    case WarpOperation::kBallot:
      return "a vote";
    case WarpOperation::kMmaBf16:
      return "MmaBf16";
    case WarpOperation::kMmaF16:
      return "MmaF16";
    case WarpOperation::kLoadTurned:
      return "LoadTurned";
  }
  return "?";
}

bool SameSite(const Site& a, const Site& b) {
  // Almost always of one place in the binary.
  return a.line() == b.line() &&
         (a.file_name() == b.file_name() ||
          std::strcmp(a.file_name(), b.file_name()) == 0);
}

}  // namespace

Block::Block(const KernelLaunch& kernel, bool in_order)
    : kernel_(kernel),
      in_order_(in_order),
      count_(kernel.block.x * kernel.block.y * kernel.block.z),
      threads_(count_),
      warps_((count_ + kWarp - 1) / kWarp) {}

void Block::Begin(uint3 index, uint64_t seed) {
  index_ = index;
  order_.emplace(count_, seed);
  memory_.Assign(kernel_.shared_bytes);
  begun_ = done_ = 0;
  next_ = static_cast<uint32_t>(order_->at(0));
  if (kThreadSanitizer) {
    while (idle_fibres.size() < count_ + kIdleFibres) {
      idle_fibres.push_back(NewFibre());
    }
  }
}

void Block::RunToGridWait() {
  stops_at_grid_wait_ = true;
  Resume();
  stops_at_grid_wait_ = false;
  for (uint32_t i = 0; i < count_; ++i) {
    if (threads_[i].state != State::kAtGridWait) RefuseStandstill();
  }
}

void Block::Run() {
  if (begun_ > 0) {
    for (uint32_t i = 0; i < count_; ++i) ready_.push_back(order_->at(i));
  }
  Resume();
  if (done_ != count_) RefuseStandstill();
}

void Block::Resume() {
  Fibre main;
  main_fibre = running_fibre = &main;
  running_block = this;
  blockIdx = index_;
  blockDim = kernel_.block;
  gridDim = kernel_.grid;
  SwitchTo(Successor());
  running_block = nullptr;
}

Fibre* Block::NewFibre() {
  // Kept for as long as the process lives.
  return new Fibre(&Block::RunThreads);
}

void Block::RunThreads() {
  for (;;) {
    bool more = true;
    while (more) {
      running_block->EnterKernel();
      const KernelLaunch* kernel;
      {
        const Unseen unseen;
        kernel = &running_block->kernel_;
      }
      kernel->thread();
      running_block->LeaveKernel();
      const Unseen unseen;
      Block& block = *running_block;
      more = !kThreadSanitizer && block.next_ready_ == block.ready_.size() &&
             block.BeginNext();
    }
    const Unseen unseen;
    idle_fibres.push_back(running_fibre);
    SwitchTo(running_block->Successor());
  }
}

void Block::EnterKernel() {
  Acquire(&kernel_order.launched);
  bool in_order;
  {
    const Unseen unseen;
    in_order = in_order_;
  }
  if (in_order) Acquire(&kernel_order.complete);
}

void Block::LeaveKernel() {
  Release(&kernel_order.ended);
  const Unseen unseen;
  Finish();
}

bool Block::BeginNext() {
  if (begun_ == count_) return false;
  ++begun_;
  const uint32_t next = next_;
  next_ = static_cast<uint32_t>(order_->After(next));
  Thread& thread = threads_[next];
  thread.state = State::kRunning;
  thread.fibre = running_fibre;
  thread.waited = thread.triggered = false;
  thread.copies.clear();
  thread.groups.clear();
  SetIndex(next);
  return true;
}

void Block::Finish() {
  Thread& thread = threads_[current_];
  if (!thread.triggered) {
    Refuse(Site::current(),
           "a kernel is left without GridWait and then GridTrigger");
  }
  thread.state = State::kDone;
  ++done_;
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

Fibre& Block::Successor() {
  if (next_ready_ < ready_.size()) {
    const uint32_t next = ready_[next_ready_++];
    if (next_ready_ == ready_.size()) {
      ready_.clear();
      next_ready_ = 0;
    }
    SetIndex(next);
    threads_[next].state = State::kRunning;
    return *threads_[next].fibre;
  }
  if (begun_ == count_) return *main_fibre;
  Fibre* fibre = nullptr;
  if (!idle_fibres.empty()) {
    fibre = idle_fibres.front();
    idle_fibres.pop_front();
  } else {
    fibre = NewFibre();
  }
  Fibre* const before = std::exchange(running_fibre, fibre);
  BeginNext();
  running_fibre = before;
  return *fibre;
}

void Block::Park(State state, const Site& site) {
  Thread& thread = threads_[current_];
  thread.state = state;
  thread.site = site;
  SwitchTo(Successor());
}

void Block::Barrier(const Site& site) {
  const char* order = nullptr;
  {
    const Unseen unseen;
    order = &barrier_orders_[barrier_round_ % 2];
    Release(order);
    if (at_barrier_ == 0) {
      barrier_site_ = site;
    } else if (!SameSite(site, barrier_site_)) {
      Refuse(site, "a barrier, while others of the block wait at that of %s:%u",
             barrier_site_.file_name(), barrier_site_.line());
    }
    if (++at_barrier_ < count_) {
      Park(State::kAtBarrier, site);
    } else {
      at_barrier_ = 0;
      ++barrier_round_;
      // Others first, and in another order than they came in.
      uint32_t waiting = current_;
      for (uint32_t i = 1; i < count_; ++i) {
        waiting = static_cast<uint32_t>(order_->After(waiting));
        ready_.push_back(waiting);
      }
    }
  }
  Acquire(order);
}

bool Block::Arrive(Warp& warp, WarpOperation operation, const Site& site) {
  const uint32_t first = current_ / kWarp * kWarp;
  if (first + kWarp > count_) {
    Refuse(site, "%s in a warp of %u threads", NameOf(operation),
           count_ - first);
  }
  if (warp.arrived == 0) {
    warp.operation = operation;
    warp.site = site;
  } else if (operation != warp.operation || !SameSite(site, warp.site)) {
    Refuse(site, "%s, while others of the warp wait in %s of %s:%u",
           NameOf(operation), NameOf(warp.operation), warp.site.file_name(),
           warp.site.line());
  }
  return ++warp.arrived == kWarp;
}

void Block::ReleaseWarp() {
  Warp& warp = warps_[current_ / kWarp];
  warp.arrived = 0;
  ++warp.round;
  const uint32_t first = current_ / kWarp * kWarp;
  for (uint32_t waiting = first; waiting < first + kWarp; ++waiting) {
    if (waiting != current_) ready_.push_back(waiting);
  }
}

void Block::Exchange(Warp& warp) {
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
  const char* order = nullptr;
  uint64_t result = 0;
  {
    const Unseen unseen;
    if (operation == WarpOperation::kShuffleFrom &&
        (argument < 0 || argument >= kWarp)) {
      Refuse(site, "ShuffleFrom of lane %d", argument);
    }
    Warp& warp = warps_[current_ / kWarp];
    order = &warp.orders[warp.round % 2];
    // A shuffle passes values on, and orders no memory.
    if (operation == WarpOperation::kBarrier) Release(order);
    const uint32_t lane = current_ % kWarp;
    warp.values[lane] = value;
    warp.arguments[lane] = argument;
    if (Arrive(warp, operation, site)) {
      Exchange(warp);
      ReleaseWarp();
    } else {
      Park(State::kInWarp, site);
    }
    result = warp.results[lane];
  }
  if (operation == WarpOperation::kBarrier) Acquire(order);
  return result;
}

void Block::Multiply(WarpOperation operation, float* acc, const uint32_t* a,
                     const uint32_t* b, const Site& site) {
  const Unseen unseen;
  Warp& warp = warps_[current_ / kWarp];
  MatrixOperands& own = warp.operands[current_ % kWarp];
  std::memcpy(own.a, a, sizeof(own.a));
  std::memcpy(own.b, b, sizeof(own.b));
  std::memcpy(own.acc, acc, sizeof(own.acc));
  if (Arrive(warp, operation, site)) {
    if (traffic_is_watched) ++computed_work.matrix_steps;
    MultiplyAdd(operation == WarpOperation::kMmaF16, options().fused_mma,
                warp.operands);
    ReleaseWarp();
  } else {
    Park(State::kInWarp, site);
  }
  std::memcpy(acc, own.acc, sizeof(own.acc));
}

void Block::TurnRows(Warp& warp) {
  constexpr int kSide = 8;
  uint16_t rows[kWarp][kSide];
  for (int row = 0; row < kWarp; ++row) {
    const void* source = nullptr;
    {
      const Unseen unseen;
      source = reinterpret_cast<const void*>(warp.values[row]);
    }
    // By the lane that comes last: the memory is the kernel's.
    std::memcpy(rows[row], source, sizeof(rows[row]));
  }
  const Unseen unseen;
  for (int lane = 0; lane < kWarp; ++lane) {
    const int column = lane / 4, first = lane % 4 * 2;
    for (int matrix = 0; matrix < kWarp / kSide; ++matrix) {
      const auto* const of_matrix = rows + matrix * kSide;
      warp.operands[lane].a[matrix] =
          of_matrix[first][column] |
          static_cast<uint32_t>(of_matrix[first + 1][column]) << 16;
    }
  }
}

void Block::LoadTurned(uint32_t* out, const void* row, const Site& site) {
  constexpr size_t kRowBytes = 16;
  Warp& warp = warps_[current_ / kWarp];
  const uint32_t lane = current_ % kWarp;
  bool last = false;
  {
    const Unseen unseen;
    const auto address = reinterpret_cast<uintptr_t>(row);
    if (address % kRowBytes != 0 || !memory_.Contains(row, kRowBytes)) {
      Refuse(site, "LoadTurned of a row at %p", row);
    }
    warp.values[lane] = address;
    last = Arrive(warp, WarpOperation::kLoadTurned, site);
  }
  if (last) TurnRows(warp);
  const Unseen unseen;
  if (last) {
    ReleaseWarp();
  } else {
    Park(State::kInWarp, site);
  }
  std::memcpy(out, warp.operands[lane].a, sizeof(warp.operands[lane].a));
}

void Block::GridWait(const Site& site) {
  {
    const Unseen unseen;
    Thread& thread = threads_[current_];
    if (thread.triggered) Refuse(site, "GridWait behind GridTrigger");
    thread.waited = true;
    if (stops_at_grid_wait_) Park(State::kAtGridWait, site);
  }
  Acquire(&kernel_order.complete);
}

void Block::GridTrigger(const Site& site) {
  const Unseen unseen;
  Thread& thread = threads_[current_];
  if (!thread.waited) Refuse(site, "GridTrigger before GridWait");
  thread.triggered = true;
}

void Block::BeginCopy(void* shared, const void* global, const Site& site) {
  {
    const Unseen unseen;
    if (!memory_.Contains(shared, 16)) {
      Refuse(site, "AsyncCopy16 to %p, which is not in shared memory", shared);
    }
    if (reinterpret_cast<uintptr_t>(shared) % 16 != 0) {
      Refuse(site, "AsyncCopy16 to %p, which is not aligned to 16 bytes",
             shared);
    }
    LoadFrom(global, 16, site);
    threads_[current_].copies.push_back({shared, global, site});
  }
  std::memset(shared, kNoNumber, 16);
}

void Block::CommitCopies() {
  const Unseen unseen;
  Thread& thread = threads_[current_];
  size_t committed = 0;
  for (const size_t group : thread.groups) committed += group;
  thread.groups.push_back(thread.copies.size() - committed);
}

void Block::FinishCopies(int groups_left) {
  for (;;) {
    PendingCopy copy;
    {
      const Unseen unseen;
      Thread& thread = threads_[current_];
      if (thread.groups.size() <= static_cast<size_t>(groups_left)) return;
      if (thread.groups.front() == 0) {
        thread.groups.erase(thread.groups.begin());
        continue;
      }
      --thread.groups.front();
      copy = thread.copies.front();
      thread.copies.erase(thread.copies.begin());
    }
    std::memcpy(copy.shared, DataAt(copy.global, 16, copy.site), 16);
  }
}

void Block::RefuseStandstill() {
  // Who waits in a warp first: the others may wait for them.
  for (const State state : {State::kInWarp, State::kAtBarrier}) {
    for (uint32_t i = 0; i < count_; ++i) {
      if (threads_[i].state != state) continue;
      SetIndex(i);
      Refuse(threads_[i].site,
             state == State::kInWarp
                 ? "waits for lanes of its warp that never come"
                 : "waits at a barrier that others of the block never come to");
    }
  }
  Refuse(Site::current(), "a block is left undone");
}

// --- What kernels call.

void* SharedMemory() { return running_block->memory().data(); }
void WaitForBlock(const Site& site) { running_block->Barrier(site); }
uint64_t MeetInWarp(WarpOperation operation, uint64_t value, int argument,
                    const Site& site) {
  return running_block->Meet(operation, value, argument, site);
}
void MultiplyInWarp(WarpOperation operation, float* acc, const uint32_t* a,
                    const uint32_t* b, const Site& site) {
  running_block->Multiply(operation, acc, a, b, site);
}
void LoadTurnedInWarp(uint32_t* out, const void* row, const Site& site) {
  running_block->LoadTurned(out, row, site);
}
void WaitForGrid(const Site& site) { running_block->GridWait(site); }
void TriggerGrid(const Site& site) { running_block->GridTrigger(site); }
void BeginCopy16(void* shared, const void* global, const Site& site) {
  running_block->BeginCopy(shared, global, site);
}
void CommitCopies() { running_block->CommitCopies(); }
void FinishCopies(int groups_left) { running_block->FinishCopies(groups_left); }

void* AtomicAt(void* address, size_t bytes, const Site& site) {
  if (!running_block->memory().Contains(address, bytes)) {
    return DataAt(address, bytes, site);
  }
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    Refuse(site, "an atomic of %zu bytes at %p", bytes, address);
  }
  return address;
}

}  // namespace engram::emulation

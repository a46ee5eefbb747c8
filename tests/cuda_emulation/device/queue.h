// Streams, events and graphs of the emulated device. Work runs when the host
// waits for it, as late as it can, on the thread that waits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/cuda_emulation/device/kernel_run.h"

namespace engram::emulation {

// What a stream does next: a kernel, or else what `run` does.
struct Work {
  std::shared_ptr<const KernelLaunch> kernel;
  std::function<void()> run;
};
// Begins work, each time that it is put into a stream.
using WorkMaker = std::function<Work()>;

struct Queue {
  int device = 0;
  bool blocking = true;  // waits for the default stream and it for this one
  std::deque<Work> work;
  int64_t enqueued = 0;
  int64_t done = 0;
  bool last_was_kernel = false;
  std::unique_ptr<KernelRun> early;  // of the kernel that is next
  // Where a capture puts work instead, and whose it is.
  cudaGraph_t capture = nullptr;
  std::thread::id capturing_thread;
  bool capture_invalid = false;
};

// The runtime's state is behind one lock, also while work runs.
std::mutex& RuntimeMutex();
using Lock = std::lock_guard<std::mutex>;

// The error that stays.
cudaError_t StickyError();
void SetStickyError(cudaError_t error);
// Remembers an error for cudaGetLastError and returns it.
cudaError_t Tell(cudaError_t error);

// What the launch of a graph begins with.
Work PoisonAtReplay();
// Begins work and adds it to a stream; or adds the maker to what captures it.
cudaError_t Enqueue(cudaStream_t stream, WorkMaker work);
// Whether a capture of this thread's, or of `waited_for`, is under way that
// forbids to wait or to allocate; it is invalid from then on.
bool BreaksCapture(const Queue* waited_for = nullptr);
bool IsCapturing(cudaStream_t stream);
// REQUIRES: there is such a stream; null is the current device's.
int DeviceOf(cudaStream_t stream);
bool Exists(cudaStream_t stream);
// Runs what was added to the stream first, up to `position`.
void RunUntil(Queue& queue, int64_t position);
void RunAll(cudaStream_t stream);
// Runs everything of all streams of a device, or only of those that its default
// stream waits for.
void RunAllStreams(int device, bool blocking_only);

}  // namespace engram::emulation

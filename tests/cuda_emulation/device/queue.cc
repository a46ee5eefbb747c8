#include "tests/cuda_emulation/device/queue.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <unordered_set>
#include <utility>

#include "tests/cuda_emulation/device/counting.h"
#include "tests/cuda_emulation/device/device_memory.h"
#include "tests/cuda_emulation/device/devices.h"
#include "tests/cuda_emulation/device/planted_error.h"
#include "tests/cuda_emulation/device/sanitizer.h"

using engram::emulation::Queue;
using engram::emulation::WorkMaker;

struct CUstream_st {
  std::shared_ptr<Queue> queue = std::make_shared<Queue>();
};
struct CUevent_st {
  int device = 0;
  std::shared_ptr<Queue> queue;  // null: never recorded
  int64_t position = 0;
  bool asked = false;
};
struct CUgraph_st {
  int device = 0;
  std::vector<WorkMaker> nodes;
};
struct CUgraphExec_st {
  int device = 0;
  std::vector<WorkMaker> nodes;
};

namespace engram::emulation {
namespace {

struct Queues {
  Queues() {
    for (int device = 0; device < kMostDevices; ++device) {
      default_streams[device].queue->device = device;
    }
  }
  std::array<CUstream_st, kMostDevices> default_streams;
  std::set<cudaStream_t> streams;
  std::unordered_set<uintptr_t> events;  // Hidden
  // Of the process: it cannot go on with any device.
  cudaError_t sticky = cudaSuccess;
};

Queues& All() {
  static Queues* queues = new Queues;
  return *queues;
}

// Its address in a form that leaves an event a leak if it is forgotten.
uintptr_t Hidden(cudaEvent_t event) {
  return ~reinterpret_cast<uintptr_t>(event);
}

thread_local cudaError_t last_error = cudaSuccess;

const std::shared_ptr<Queue>& QueueOf(cudaStream_t stream) {
  return stream == nullptr ? All().default_streams[CurrentDevice()].queue
                           : stream->queue;
}

void RunKernel(Queue& queue,
               const std::shared_ptr<const KernelLaunch>& kernel) {
  ++counting().kernels;
  std::unique_ptr<KernelRun> run = std::move(queue.early);
  if (run == nullptr) {
    const bool in_order = !kernel->overlaps || !queue.last_was_kernel;
    run = std::make_unique<KernelRun>(kernel, in_order);
  }
  if (FailsNow()) return;
  DeviceMemory::Of(queue.device).BeReached();
  // The blocks of the next kernel begin when all of this one have come to their
  // GridTrigger, at the earliest: what was before this one is done.
  if (options().early_threads > 0 && !queue.work.empty()) {
    const auto& next = queue.work.front().kernel;
    if (next != nullptr && next->overlaps) {
      queue.early = std::make_unique<KernelRun>(next, /*in_order=*/false);
      queue.early->RunEarly(options().early_threads);
    }
  }
  run->Run();
}

}  // namespace

std::mutex& RuntimeMutex() {
  static std::mutex* mutex = new std::mutex;
  return *mutex;
}

cudaError_t StickyError() { return All().sticky; }
void SetStickyError(cudaError_t error) {
  All().sticky = error;
  if (error == cudaSuccess) return;
  // Nobody gives back what is of a device that failed.
  for (const uintptr_t event : All().events) {
    IgnoreLeak(reinterpret_cast<const void*>(~event));
  }
}

cudaError_t Tell(cudaError_t error) {
  ++counting().calls;
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

cudaError_t Enqueue(cudaStream_t stream, WorkMaker work) {
  if (!Exists(stream)) return cudaErrorInvalidResourceHandle;
  Queue& queue = *QueueOf(stream);
  if (queue.capture != nullptr) {
    queue.capture->nodes.push_back(std::move(work));
    return cudaSuccess;
  }
  queue.work.push_back(work());
  ++queue.enqueued;
  if (options().at_once) RunUntil(queue, queue.enqueued);
  return cudaSuccess;
}

Work PoisonAtReplay() {
  return {nullptr, [] {
            for (const auto& [memory, bytes] : poisoned_at_replay()) {
              std::memset(DeviceMemory::OwnerOf(memory)->Data(memory),
                          kNoNumber, bytes);
            }
          }};
}

bool BreaksCapture(const Queue* waited_for) {
  bool found = false;
  for (const cudaStream_t stream : All().streams) {
    Queue& queue = *stream->queue;
    if (queue.capture == nullptr) continue;
    if (&queue != waited_for &&
        queue.capturing_thread != std::this_thread::get_id()) {
      continue;
    }
    queue.capture_invalid = true;
    found = true;
  }
  return found;
}

bool IsCapturing(cudaStream_t stream) {
  return QueueOf(stream)->capture != nullptr;
}

int DeviceOf(cudaStream_t stream) { return QueueOf(stream)->device; }

bool Exists(cudaStream_t stream) {
  return stream == nullptr || All().streams.count(stream) != 0;
}

void RunUntil(Queue& queue, int64_t position) {
  while (queue.done < position) {
    const Work work = std::move(queue.work.front());
    queue.work.pop_front();
    // Nothing runs on a device that has failed.
    if (All().sticky == cudaSuccess) {
      if (work.kernel != nullptr) {
        RunKernel(queue, work.kernel);
      } else {
        work.run();
      }
    }
    queue.last_was_kernel = work.kernel != nullptr;
    ++queue.done;
  }
}

void RunAll(cudaStream_t stream) {
  Queue& queue = *QueueOf(stream);
  if (queue.done == queue.enqueued) return;
  ++counting().waits;
  RunUntil(queue, queue.enqueued);
}

void RunAllStreams(int device, bool blocking_only) {
  Queue& first = *All().default_streams[device].queue;
  RunUntil(first, first.enqueued);
  for (const cudaStream_t stream : All().streams) {
    if (DeviceOf(stream) != device) continue;
    if (!blocking_only || stream->queue->blocking) RunAll(stream);
  }
}

}  // namespace engram::emulation

// NOLINTBEGIN: the names are CUDA's.

using engram::emulation::All;
using engram::emulation::BreaksCapture;
using engram::emulation::counting;
using engram::emulation::CurrentDevice;
using engram::emulation::DeviceOf;
using engram::emulation::Enqueue;
using engram::emulation::Exists;
using engram::emulation::Hidden;
using engram::emulation::IsCapturing;
using engram::emulation::last_error;
using engram::emulation::Lock;
using engram::emulation::PoisonAtReplay;
using engram::emulation::QueueOf;
using engram::emulation::RunAll;
using engram::emulation::RuntimeMutex;
using engram::emulation::RunUntil;
using engram::emulation::StickyError;
using engram::emulation::Tell;
using engram::emulation::Work;

namespace {

bool IsReached(const CUevent_st& event) {
  return event.queue == nullptr || event.queue->done >= event.position;
}

}  // namespace

cudaError_t cudaGetLastError() {
  Lock lock(RuntimeMutex());
  const cudaError_t error = last_error;
  last_error = StickyError();
  return error;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  *stream = new CUstream_st;
  (*stream)->queue->device = CurrentDevice();
  (*stream)->queue->blocking = (flags & cudaStreamNonBlocking) == 0;
  All().streams.insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(RuntimeMutex());
  if (stream == nullptr || !Exists(stream)) {
    return Tell(cudaErrorInvalidResourceHandle);
  }
  RunAll(stream);
  All().streams.erase(stream);
  delete stream;
  return Tell(StickyError());
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(RuntimeMutex());
  if (!Exists(stream)) return Tell(cudaErrorInvalidResourceHandle);
  if (BreaksCapture(QueueOf(stream).get())) {
    return Tell(cudaErrorStreamCaptureUnsupported);
  }
  RunAll(stream);
  return Tell(StickyError());
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Lock lock(RuntimeMutex());
  if (!Exists(stream)) return Tell(cudaErrorInvalidResourceHandle);
  if (IsCapturing(stream)) {
    BreaksCapture(QueueOf(stream).get());
    return Tell(cudaErrorStreamCaptureUnsupported);
  }
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  const Queue& queue = *QueueOf(stream);
  return queue.done == queue.enqueued ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event,
                                unsigned) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (IsReached(*event)) return cudaSuccess;
  if (IsCapturing(stream)) {
    // Captures of several streams are not emulated.
    BreaksCapture(QueueOf(stream).get());
    return Tell(cudaErrorStreamCaptureUnsupported);
  }
  const auto wait = [queue = event->queue, position = event->position] {
    RunUntil(*queue, position);
  };
  return Tell(Enqueue(stream, [wait] { return Work{nullptr, wait}; }));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  *event = new CUevent_st;
  All().events.insert(Hidden(*event));
  (*event)->device = CurrentDevice();
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock(RuntimeMutex());
  if (event == nullptr) return Tell(cudaErrorInvalidResourceHandle);
  All().events.erase(Hidden(event));
  delete event;
  return Tell(StickyError());
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(RuntimeMutex());
  if (!Exists(stream)) return Tell(cudaErrorInvalidResourceHandle);
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (event->device != DeviceOf(stream)) {
    return Tell(cudaErrorInvalidResourceHandle);
  }
  if (IsCapturing(stream)) {
    BreaksCapture(QueueOf(stream).get());
    return Tell(cudaErrorStreamCaptureUnsupported);
  }
  event->queue = QueueOf(stream);
  event->position = event->queue->enqueued;
  event->asked = false;
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  if (IsReached(*event)) return cudaSuccess;
  // Who asks again and again is to be told yes in the end.
  if (!event->asked) {
    event->asked = true;
    return cudaErrorNotReady;
  }
  RunUntil(*event->queue, event->position);
  return Tell(StickyError());
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(RuntimeMutex());
  if (BreaksCapture()) return Tell(cudaErrorStreamCaptureUnsupported);
  if (!IsReached(*event)) {
    ++counting().waits;
    RunUntil(*event->queue, event->position);
  }
  return Tell(StickyError());
}

// --- Graphs.

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  // The default stream cannot be captured.
  if (stream == nullptr) return Tell(cudaErrorStreamCaptureUnsupported);
  if (!Exists(stream)) return Tell(cudaErrorInvalidResourceHandle);
  if (IsCapturing(stream)) return Tell(cudaErrorIllegalState);
  stream->queue->capture = new CUgraph_st{DeviceOf(stream), {}};
  stream->queue->capturing_thread = std::this_thread::get_id();
  stream->queue->capture_invalid = false;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(RuntimeMutex());
  *graph = nullptr;
  if (stream == nullptr || !Exists(stream) || !IsCapturing(stream)) {
    return Tell(cudaErrorIllegalState);
  }
  Queue& queue = *stream->queue;
  const cudaGraph_t captured = std::exchange(queue.capture, nullptr);
  if (queue.capture_invalid) {
    delete captured;
    return Tell(cudaErrorStreamCaptureInvalidated);
  }
  *graph = captured;
  return Tell(StickyError());
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  *exec = new CUgraphExec_st{graph->device, graph->nodes};
  ++counting().instantiations;
  return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (!Exists(stream) || exec->device != DeviceOf(stream)) {
    return Tell(cudaErrorInvalidResourceHandle);
  }
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  Lock lock(RuntimeMutex());
  if (StickyError() != cudaSuccess) return Tell(StickyError());
  if (!Exists(stream) || exec->device != DeviceOf(stream)) {
    return Tell(cudaErrorInvalidResourceHandle);
  }
  ++counting().graphs;
  const cudaError_t poisoned = Enqueue(stream, PoisonAtReplay);
  if (poisoned != cudaSuccess) return Tell(poisoned);
  for (const WorkMaker& node : exec->nodes) {
    const cudaError_t error = Enqueue(stream, node);
    if (error != cudaSuccess) return Tell(error);
  }
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes,
                              size_t* count) {
  Lock lock(RuntimeMutex());
  // A node is no more than its number here.
  if (nodes != nullptr) {
    for (size_t i = 0; i < std::min(*count, graph->nodes.size()); ++i) {
      nodes[i] = reinterpret_cast<cudaGraphNode_t>(i + 1);
    }
  }
  *count = graph->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Lock lock(RuntimeMutex());
  delete graph;
  return Tell(StickyError());
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  Lock lock(RuntimeMutex());
  delete exec;
  return Tell(StickyError());
}

// NOLINTEND

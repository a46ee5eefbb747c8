#include "kernels/cuda/device_queue.h"

#include "kernels/status.h"

namespace engram::cuda {

class DeviceQueue::Event final : public DeviceEvent {
 public:
  // Takes ownership of `event`. What is to be delivered up to `deliveries` is
  // so with it.
  Event(DeviceQueue* queue, cudaEvent_t event, uint64_t deliveries)
      : queue_(*queue), event_(event), deliveries_(deliveries) {}
  ~Event() override {
    if (!DeviceIsLost()) (void)cudaEventDestroy(event_);
  }

  bool Reached() override {
    const cudaError_t error = cudaEventQuery(event_);
    if (error == cudaErrorNotReady) return false;
    queue_.Note(error, "asking for an event");
    // A failed device reaches everything: Wait() tells.
    if (error == cudaSuccess) queue_.DeliverUpTo(deliveries_);
    return true;
  }

  absl::Status Wait() override {
    // Copies that were on their way then are waited for when all ends.
    if (!queue_.failure().ok()) return queue_.failure();
    queue_.Note(cudaEventSynchronize(event_), "waiting for an event");
    if (queue_.failure().ok()) queue_.DeliverUpTo(deliveries_);
    return queue_.failure();
  }

 private:
  DeviceQueue& queue_;
  const cudaEvent_t event_;
  const uint64_t deliveries_;
};

absl::StatusOr<std::unique_ptr<DeviceQueue>> DeviceQueue::Make(int device) {
  std::unique_ptr<DeviceQueue> queue(new DeviceQueue(device));
  ENGRAM_RETURN_IF_ERROR(queue->MakeStreams());
  return queue;
}

absl::Status DeviceQueue::MakeStreams() {
  ENGRAM_RETURN_IF_ERROR(
      DeviceStatus(MakeCurrent(device_), "making a device current"));
  for (cudaStream_t* stream : {&operations_, &copies_}) {
    ENGRAM_RETURN_IF_ERROR(
        DeviceStatus(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking),
                     "making a stream"));
  }
  return DeviceStatus(
      cudaEventCreateWithFlags(&before_copy_, cudaEventDisableTiming),
      "making an event");
}

DeviceQueue::~DeviceQueue() {
  if (DeviceIsLost()) return;
  BeCurrent();
  WaitForWork();
  for (const cudaStream_t stream : {operations_, copies_}) {
    if (stream != nullptr) (void)cudaStreamDestroy(stream);
  }
  if (before_copy_ != nullptr) (void)cudaEventDestroy(before_copy_);
}

absl::StatusOr<std::unique_ptr<DeviceEvent>> DeviceQueue::BeginCopy(
    void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  Note(cudaEventRecord(before_copy_, operations()), "recording an event");
  Note(cudaStreamWaitEvent(copies_, before_copy_, 0), "ordering a copy");
  if (bytes > 0) {
    Note(cudaMemcpyAsync(target, source, bytes, kind, copies_), "copying");
  }
  return RecordEventIn(copies_);
}

absl::StatusOr<std::unique_ptr<DeviceEvent>> DeviceQueue::RecordEvent() {
  return RecordEventIn(operations());
}

absl::StatusOr<std::unique_ptr<DeviceEvent>> DeviceQueue::RecordEventIn(
    cudaStream_t stream) {
  cudaEvent_t event = nullptr;
  Note(cudaEventCreateWithFlags(&event, cudaEventDisableTiming),
       "making an event");
  Note(cudaEventRecord(event, stream), "recording an event");
  auto reached = std::make_unique<Event>(this, event, last_delivery_);
  if (!failure().ok()) return failure();
  return reached;
}

absl::Status DeviceQueue::Synchronize() {
  Note(cudaStreamSynchronize(operations()), "waiting for the operations");
  Note(cudaStreamSynchronize(copies_), "waiting for the copies");
  if (failure().ok()) DeliverUpTo(last_delivery_);
  return failure();
}

void DeviceQueue::WaitForWork() const {
  for (const cudaStream_t stream : {operations_, copies_}) {
    if (stream == nullptr || DeviceIsLost()) continue;
    // What failed is told by whoever asks the device for something.
    (void)cudaStreamSynchronize(stream);
  }
}

void DeviceQueue::DeliverUpTo(uint64_t number) {
  while (!deliveries_.empty() && deliveries_.front().number <= number) {
    const Delivery delivery = std::move(deliveries_.front());
    deliveries_.pop_front();
    delivery.deliver();
  }
}

}  // namespace engram::cuda

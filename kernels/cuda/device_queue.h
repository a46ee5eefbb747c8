// DeviceQueue: the streams of a device, the order between them, and what is
// brought to the host when they have come so far.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"
#include "kernels/cuda/current_device.h"
#include "kernels/cuda/device_status.h"

namespace engram::cuda {

// Operations run in one stream, in order; copies between host and device in
// another one, beside them: each copy begins when the operations begun before
// it are done. Engine thread only; outlives its events.
class DeviceQueue {
 public:
  // Of the device of that index.
  static absl::StatusOr<std::unique_ptr<DeviceQueue>> Make(int device);
  ~DeviceQueue();
  DeviceQueue(const DeviceQueue&) = delete;
  DeviceQueue& operator=(const DeviceQueue&) = delete;

  int device() const { return device_; }
  // The runtime's calls of this thread are about the queue's device from now
  // on.
  void BeCurrent() { Note(MakeCurrent(device_), "making a device current"); }
  // The stream, to put work into: its device is current from now on.
  cudaStream_t operations() {
    BeCurrent();
    return operations_;
  }

  // Keeps the first failure of the device.
  void Note(cudaError_t error, absl::string_view what) {
    failure_.Note(error, what);
  }
  void Fail(const absl::Status& status) { failure_.Keep(status); }
  const absl::Status& failure() const { return failure_.status(); }

  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopy(void* target,
                                                         const void* source,
                                                         size_t bytes,
                                                         cudaMemcpyKind kind);
  // Behind all operations begun so far.
  absl::StatusOr<std::unique_ptr<DeviceEvent>> RecordEvent();
  // Waits for both streams, and delivers.
  absl::Status Synchronize();

  // Waits for both streams and delivers nothing; does nothing if a device is
  // lost. For the ends of what they work on.
  void WaitForWork() const;

  // Calls `deliver` when an event behind all operations begun so far is reached
  // or waited for, or at Synchronize().
  void DeliverLater(std::function<void()> deliver) {
    deliveries_.push_back({++last_delivery_, std::move(deliver)});
  }

 private:
  class Event;
  struct Delivery {
    uint64_t number;
    std::function<void()> deliver;
  };

  explicit DeviceQueue(int device) : device_(device) {}
  absl::Status MakeStreams();
  absl::StatusOr<std::unique_ptr<DeviceEvent>> RecordEventIn(
      cudaStream_t stream);
  void DeliverUpTo(uint64_t number);

  const int device_;
  cudaStream_t operations_ = nullptr;
  cudaStream_t copies_ = nullptr;
  cudaEvent_t before_copy_ = nullptr;
  DeviceFailure failure_;
  std::deque<Delivery> deliveries_;
  uint64_t last_delivery_ = 0;
};

}  // namespace engram::cuda

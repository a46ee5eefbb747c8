#include "kernels/cuda/step_upload.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_status.h"
#include "kernels/status.h"

namespace engram::cuda {

StepUpload::~StepUpload() {
  for (const Staging& staging : stagings_) {
    if (staging.copied == nullptr || DeviceIsLost()) continue;
    (void)cudaEventDestroy(staging.copied);
  }
}

MemoryNeed StepUpload::NeedOf(size_t row_bytes, size_t request_bytes) {
  const size_t bytes = row_bytes + request_bytes;
  if (bytes == 0) return {};
  return {.device = DevicePieceBytes(bytes),
          .pinned = kStagings * PinnedPieceBytes(bytes)};
}

absl::Status StepUpload::Reserve(size_t row_bytes, size_t request_bytes,
                                 cudaStream_t stream, bool* moved) {
  row_bytes = std::max(row_bytes, row_bytes_);
  request_bytes = std::max(request_bytes, request_bytes_);
  if (row_bytes == row_bytes_ && request_bytes == request_bytes_) {
    return absl::OkStatus();
  }
  *moved = true;
  // Kernels of earlier steps may still read what is about to be freed.
  ENGRAM_RETURN_IF_ERROR(
      DeviceStatus(cudaStreamSynchronize(stream), "waiting for a step"));
  const size_t bytes = row_bytes + request_bytes;
  // What there is stays until there is all of the new: a step that has no room
  // goes on to its end, and looks at what was there before it.
  std::unique_ptr<Buffer> memories[kStagings];
  for (size_t i = 0; i < kStagings; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(memories[i], AllocatePinnedMemory(bytes));
    cudaEvent_t& copied = stagings_[i].copied;
    if (copied != nullptr) continue;
    ENGRAM_RETURN_IF_ERROR(
        DeviceStatus(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming),
                     "making an event"));
  }
  ENGRAM_ASSIGN_OR_RETURN(device_, AllocateDeviceMemory(bytes));
  for (size_t i = 0; i < kStagings; ++i) {
    stagings_[i].memory = std::move(memories[i]);
  }
  row_bytes_ = row_bytes;
  request_bytes_ = request_bytes;
  takes_requests_ = false;
  return absl::OkStatus();
}

absl::StatusOr<std::byte*> StepUpload::Begin() {
  current_ = 1 - current_;
  takes_requests_ = true;
  ENGRAM_RETURN_IF_ERROR(
      DeviceStatus(cudaEventSynchronize(stagings_[current_].copied),
                   "waiting for a step's tables"));
  return static_cast<std::byte*>(stagings_[current_].memory->data());
}

absl::StatusOr<std::byte*> StepUpload::BeginRequests() {
  if (!takes_requests_) {
    ENGRAM_RETURN_IF_ERROR(Begin().status());
  }
  takes_requests_ = false;
  return static_cast<std::byte*>(stagings_[current_].memory->data());
}

absl::Status StepUpload::Copy(size_t begin, size_t end, cudaStream_t stream) {
  const Staging& staging = stagings_[current_];
  ENGRAM_RETURN_IF_ERROR(DeviceStatus(
      cudaMemcpyAsync(
          memory() + begin,
          static_cast<const std::byte*>(staging.memory->data()) + begin,
          end - begin, cudaMemcpyHostToDevice, stream),
      "copying a step's tables"));
  return DeviceStatus(cudaEventRecord(staging.copied, stream),
                      "recording an event");
}

std::byte* StepUpload::memory() const {
  return static_cast<std::byte*>(device_->data());
}

}  // namespace engram::cuda

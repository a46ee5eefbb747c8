// A back end whose device fails: one call that could tell of it does.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include "absl/status/status.h"
#include "kernels/status.h"
#include "tests/support/forwarding_backend.h"

namespace engram {

class FaultyBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  // The `n`-th copy, allocation, Synchronize or event from now on fails, 1
  // being the next; so do then all that follow.
  void FailFrom(int64_t n) { left_ = n; }
  bool has_failed() const { return left_ <= 0; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override {
    ENGRAM_RETURN_IF_ERROR(Next());
    return ForwardingBackend::Allocate(bytes);
  }
  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes) override {
    ENGRAM_RETURN_IF_ERROR(Next());
    return ForwardingBackend::AllocateHost(bytes);
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyToHost(
      void* host, const void* source, size_t bytes) override {
    ENGRAM_RETURN_IF_ERROR(Next());
    return ForwardingBackend::BeginCopyToHost(host, source, bytes);
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyFromHost(
      void* target, const void* host, size_t bytes) override {
    ENGRAM_RETURN_IF_ERROR(Next());
    return ForwardingBackend::BeginCopyFromHost(target, host, bytes);
  }
  absl::Status Copy(void* target, const void* source, size_t bytes) override {
    ENGRAM_RETURN_IF_ERROR(Next());
    return ForwardingBackend::Copy(target, source, bytes);
  }
  absl::Status Zero(void* target, size_t bytes) override {
    ENGRAM_RETURN_IF_ERROR(Next());
    return ForwardingBackend::Zero(target, bytes);
  }
  absl::Status ReserveSteps(const LargestStep& largest) override {
    ENGRAM_RETURN_IF_ERROR(Next());
    return ForwardingBackend::ReserveSteps(largest);
  }
  absl::Status Synchronize() override {
    ENGRAM_RETURN_IF_ERROR(Next());
    return ForwardingBackend::Synchronize();
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> RecordEvent() override {
    ENGRAM_RETURN_IF_ERROR(Next());
    return ForwardingBackend::RecordEvent();
  }

 private:
  absl::Status Next() {
    if (--left_ > 0) return absl::OkStatus();
    return absl::InternalError("the device is on fire");
  }

  int64_t left_ = std::numeric_limits<int64_t>::max();
};

}  // namespace engram

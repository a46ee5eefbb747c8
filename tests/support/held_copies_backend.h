// A back end whose copies between host and device are done when a test says so,
// or when they are waited for. The bytes are copied then and not before: what
// is read, written or freed too early shows in them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>

#include "absl/status/status.h"
#include "kernels/status.h"
#include "tests/support/forwarding_backend.h"

namespace engram {

class HeldCopiesBackend final : public ForwardingBackend {
 public:
  // `inner` is a CPU's.
  explicit HeldCopiesBackend(Backend* inner) : ForwardingBackend(inner) {}

  // From now on copies are held; before, they are done when they have begun.
  void Hold() { holds_ = true; }
  void LetGo() {
    holds_ = false;
    Complete();
  }
  int held() const { return static_cast<int>(held_.size()); }
  // How often somebody has waited for a copy that was held.
  int waits() const { return waits_; }
  // So many of those held are done, in the order in which they began.
  void Complete(int count = std::numeric_limits<int>::max()) {
    for (; count > 0 && !held_.empty(); --count) {
      const Copy& copy = held_.front();
      if (!fails_) std::memcpy(copy.target, copy.source, copy.bytes);
      held_.pop_front();
      ++done_;
    }
  }
  // The device fails: no copy is done from now on, and all say so.
  void Fail() { fails_ = true; }

  bool is_asynchronous() const override { return true; }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyToHost(
      void* host, const void* source, size_t bytes) override {
    return Begin(host, source, bytes);
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginCopyFromHost(
      void* target, const void* host, size_t bytes) override {
    return Begin(target, host, bytes);
  }

 private:
  struct Copy {
    void* target = nullptr;
    const void* source = nullptr;
    size_t bytes = 0;
  };
  class Event final : public DeviceEvent {
   public:
    Event(HeldCopiesBackend* backend, int64_t number)
        : backend_(*backend), number_(number) {}
    bool Reached() override { return backend_.done_ >= number_; }
    absl::Status Wait() override {
      if (!Reached()) {
        ++backend_.waits_;
        backend_.Complete(static_cast<int>(number_ - backend_.done_));
      }
      return backend_.Status();
    }

   private:
    HeldCopiesBackend& backend_;
    const int64_t number_;
  };

  absl::Status Status() const {
    return fails_ ? absl::InternalError("the device is on fire")
                  : absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<DeviceEvent>> Begin(void* target,
                                                     const void* source,
                                                     size_t bytes) {
    ENGRAM_RETURN_IF_ERROR(Status());
    held_.push_back({target, source, bytes});
    auto event = std::make_unique<Event>(this, ++begun_);
    if (!holds_) Complete();
    return event;
  }

  bool holds_ = false;
  bool fails_ = false;
  std::deque<Copy> held_;
  int64_t begun_ = 0;
  int64_t done_ = 0;
  int waits_ = 0;
};

}  // namespace engram

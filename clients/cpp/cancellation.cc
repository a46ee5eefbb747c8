#include "clients/cpp/cancellation.h"

#include <utility>

namespace engram::client {

void Cancellation::Cancel() {
  absl::MutexLock lock(&mutex_);
  if (cancelled_) return;
  cancelled_ = true;
  for (auto& [registration, stop] : stops_) stop();
}

bool Cancellation::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

int64_t Cancellation::Register(std::function<void()> stop) {
  absl::MutexLock lock(&mutex_);
  const int64_t registration = next_registration_++;
  if (cancelled_) {
    stop();
  } else {
    stops_.emplace(registration, std::move(stop));
  }
  return registration;
}

void Cancellation::Unregister(int64_t registration) {
  absl::MutexLock lock(&mutex_);
  stops_.erase(registration);
}

}  // namespace engram::client

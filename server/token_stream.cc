#include "server/token_stream.h"

#include <utility>

#include "kernels/status.h"

namespace engram {

TokenStream::TokenStream(int capacity, std::function<void()> wake_engine)
    : capacity_(capacity), wake_engine_(std::move(wake_engine)) {}

bool TokenStream::HasRoom() const {
  absl::MutexLock lock(&mutex_);
  return events_.size() < capacity_;
}

bool TokenStream::HasAmpleRoom() const {
  absl::MutexLock lock(&mutex_);
  return events_.size() <= capacity_ / 2;
}

int64_t TokenStream::events_read() const {
  absl::MutexLock lock(&mutex_);
  return events_read_;
}

void TokenStream::Push(Event event) {
  {
    absl::MutexLock lock(&mutex_);
    ENGRAM_CHECK(!end_.has_value());
    events_.push_back(std::move(event));
  }
  NotifyReader();
}

void TokenStream::End(absl::Status status) {
  {
    absl::MutexLock lock(&mutex_);
    ENGRAM_CHECK(!end_.has_value());
    end_ = std::move(status);
  }
  NotifyReader();
}

std::optional<absl::Status> TokenStream::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

TokenStream::State TokenStream::Pop(Event* event, absl::Status* status) {
  bool was_full = false;
  State state = State::kEmpty;
  {
    absl::MutexLock lock(&mutex_);
    if (!events_.empty()) {
      was_full = events_.size() >= capacity_;
      *event = std::move(events_.front());
      events_.pop_front();
      ++events_read_;
      state = State::kEvent;
    } else if (end_.has_value()) {
      *status = *end_;
      state = State::kEnd;
    } else {
      reader_waits_ = true;
    }
  }
  if (was_full) wake_engine_();
  return state;
}

void TokenStream::SetReady(std::function<void()> ready) {
  absl::MutexLock lock(&mutex_);
  ready_ = std::move(ready);
}

void TokenStream::Cancel(absl::Status reason) {
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_.has_value() || end_.has_value()) return;
    cancelled_ = std::move(reason);
  }
  wake_engine_();
}

void TokenStream::NotifyReader() {
  std::function<void()> ready;
  {
    absl::MutexLock lock(&mutex_);
    if (!reader_waits_) return;
    reader_waits_ = false;
    ready = ready_;
  }
  if (ready) ready();
}

}  // namespace engram

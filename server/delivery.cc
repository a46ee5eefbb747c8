#include "server/delivery.h"

#include <utility>

namespace engram {

// Delegates, so that what was started is joined if the next cannot be.
Delivery::Delivery(int threads) : Delivery(NotStarted()) {
  threads_.reserve(static_cast<size_t>(threads));
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

Delivery::~Delivery() { Finish(); }

void Delivery::Add(Streams streams) {
  {
    absl::MutexLock lock(&mutex_);
    for (auto& stream : streams) streams_.push_back(std::move(stream));
    UpdateHasWork();
  }
  if (is_by_hand_ || !threads_.empty()) return;
  while (TellNext()) {
  }
}

std::shared_ptr<TokenStream> Delivery::Take() {
  std::shared_ptr<TokenStream> stream = std::move(streams_.front());
  streams_.pop_front();
  UpdateHasWork();
  return stream;
}

bool Delivery::TellNext() {
  std::shared_ptr<TokenStream> stream;
  {
    absl::MutexLock lock(&mutex_);
    if (streams_.empty()) return false;
    stream = Take();
  }
  stream->TellReader();
  return true;
}

void Delivery::Run() {
  while (true) {
    std::shared_ptr<TokenStream> stream;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&has_work_));
      if (streams_.empty()) return;
      stream = Take();
    }
    stream->TellReader();
  }
}

void Delivery::Finish() {
  {
    absl::MutexLock lock(&mutex_);
    is_ending_ = true;
    UpdateHasWork();
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  while (TellNext()) {
  }
}

}  // namespace engram

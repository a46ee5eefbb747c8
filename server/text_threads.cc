#include "server/text_threads.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace engram {
namespace {

// Tokenised in some milliseconds; most requests are shorter.
constexpr size_t kShortText = 16 << 10;

}  // namespace

TextThreads::TextThreads(int threads, int max_queue) : max_queue_(max_queue) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this] { RunQueued(); });
  }
}

TextThreads::~TextThreads() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = has_work_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

absl::Status TextThreads::Run(size_t text_bytes, std::function<void()> task) {
  if (text_bytes <= kShortText) {
    task();
    return absl::OkStatus();
  }
  absl::MutexLock lock(&mutex_);
  if (queue_.size() >= max_queue_) {
    return absl::UnavailableError(absl::StrCat(
        "the queue is full: ", queue_.size(),
        " long texts wait to be tokenised, limit ", max_queue_,
        " (--max-queue); try again later"));
  }
  queue_.push_back(std::move(task));
  has_work_ = true;
  return absl::OkStatus();
}

void TextThreads::RunQueued() {
  while (true) {
    std::function<void()> task;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&has_work_));
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
      has_work_ = stopping_ || !queue_.empty();
    }
    task();
  }
}

}  // namespace engram

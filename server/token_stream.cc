#include "server/token_stream.h"

#include <utility>

#include "kernels/status.h"

namespace engram {

TokenStream::TokenStream(int capacity, std::function<void()> wake_engine,
                         const Tokenizer* tokenizer)
    : capacity_(capacity),
      wake_engine_(std::move(wake_engine)),
      tokenizer_(tokenizer) {}

bool TokenStream::HasRoom(size_t tokens) const {
  absl::MutexLock lock(&mutex_);
  return items_.size() + tokens <= capacity_;
}

bool TokenStream::HasAmpleRoom() const {
  absl::MutexLock lock(&mutex_);
  return items_.size() <= capacity_ / 2;
}

int64_t TokenStream::events_read() const {
  absl::MutexLock lock(&mutex_);
  return events_read_;
}

bool TokenStream::Push(Item item) {
  absl::MutexLock lock(&mutex_);
  ENGRAM_CHECK(!end_.has_value());
  items_.push_back(std::move(item));
  return ReaderWaits();
}

bool TokenStream::End(absl::Status status, const TurnFigures& figures) {
  absl::MutexLock lock(&mutex_);
  ENGRAM_CHECK(!end_.has_value());
  end_ = std::move(status);
  figures_ = figures;
  return ReaderWaits();
}

bool TokenStream::ReaderWaits() {
  if (!reader_waits_) return false;
  reader_waits_ = false;
  return true;
}

TurnFigures TokenStream::figures() const {
  absl::MutexLock lock(&mutex_);
  return figures_;
}

std::optional<absl::Status> TokenStream::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

TokenStream::State TokenStream::Pop(Event* event, absl::Status* status) {
  bool was_full = false;
  Item item;
  {
    absl::MutexLock lock(&mutex_);
    if (items_.empty()) {
      reader_waits_ = !end_.has_value();
      if (reader_waits_) return State::kEmpty;
      *status = *end_;
      return State::kEnd;
    }
    was_full = items_.size() >= capacity_;
    item = std::move(items_.front());
    items_.pop_front();
    ++events_read_;
  }
  if (was_full) wake_engine_();
  *event = Told(std::move(item));
  return State::kEvent;
}

Event TokenStream::Told(Item item) {
  if (auto* token = std::get_if<SampledToken>(&item)) {
    if (!token->piece && text_ != nullptr) token->Read(text_.get());
    return MakeTokenEvent(*std::move(token), tokenizer_);
  }
  if (auto* completed = std::get_if<CompletedEvent>(&item)) {
    if (text_ != nullptr) completed->text = text_->Flush();
    return *std::move(completed);
  }
  return std::get<StartedEvent>(std::move(item));
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

void TokenStream::TellReader() {
  std::function<void()> ready;
  {
    absl::MutexLock lock(&mutex_);
    ready = ready_;
  }
  if (ready) ready();
}

}  // namespace engram

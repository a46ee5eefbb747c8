#include "server/watched_files.h"

#include <utility>

#include "kernels/status.h"

namespace engram {

WatchedFiles::WatchedFiles(Parts parts) : parts_(std::move(parts)) {}

WatchedFiles::~WatchedFiles() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

absl::Status WatchedFiles::Load() {
  absl::MutexLock looking(&looking_);
  ENGRAM_ASSIGN_OR_RETURN(used_, parts_.read());
  return parts_.use(used_);
}

int64_t WatchedFiles::failures() const {
  absl::MutexLock lock(&mutex_);
  return failures_;
}

void WatchedFiles::Refresh() {
  absl::MutexLock looking(&looking_);
  absl::StatusOr<Texts> texts = parts_.read();
  if (!texts.ok()) return NoteBroken({}, std::string(texts.status().message()));
  if (*texts == used_) {
    broken_.reset();
    return;
  }
  const absl::Status used = parts_.use(*texts);
  if (!used.ok()) {
    return NoteBroken(*std::move(texts), std::string(used.message()));
  }
  broken_.reset();
  used_ = *std::move(texts);
}

void WatchedFiles::NoteBroken(Texts texts, std::string why) {
  if (!broken_.has_value() || broken_->texts != texts || broken_->why != why) {
    broken_ = Broken{std::move(texts), std::move(why)};
    return;
  }
  if (std::exchange(broken_->told, true)) return;
  {
    absl::MutexLock lock(&mutex_);
    ++failures_;
  }
  parts_.on_failure(why);
}

void WatchedFiles::Watch(absl::Duration interval) {
  thread_ = std::thread([this, interval] {
    while (!StopsWithin(interval)) Refresh();
  });
}

bool WatchedFiles::StopsWithin(absl::Duration interval) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&stopping_), interval);
}

}  // namespace engram

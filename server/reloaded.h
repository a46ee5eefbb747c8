// Reloaded: what is made of files, and made anew when they change.
//
// What is in use stays as it is until the files hold a whole that can be used:
// what is damaged, half written or out of date changes nothing, and is told
// and counted once.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/status.h"

namespace engram {

// `Texts` are what the files hold, `Version` is what is made of them.
template <typename Texts, typename Version>
class Reloaded {
 public:
  using VersionHandle = std::shared_ptr<const Version>;

  struct Parts {
    std::function<absl::StatusOr<Texts>()> read;
    // Of texts that differ from those in use; `last` is what is, null at first.
    std::function<absl::StatusOr<Version>(const Texts&,
                                          const VersionHandle& last)>
        make;
    // What is made is in use now, in place of another.
    std::function<void(const Version& now)> on_change;
    // The files changed into what cannot be used, because of `why`.
    std::function<void(const std::string& why, const Version& now)> on_failure;
  };

  explicit Reloaded(Parts parts) : parts_(std::move(parts)) {}
  ~Reloaded() {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    if (thread_.joinable()) thread_.join();
  }

  // Once, before all else. Errors are those of `read` and `make`.
  absl::Status Load() {
    ENGRAM_ASSIGN_OR_RETURN(Texts texts, parts_.read());
    ENGRAM_ASSIGN_OR_RETURN(Version first, parts_.make(texts, nullptr));
    absl::MutexLock looking(&looking_);
    absl::MutexLock lock(&mutex_);
    texts_ = std::move(texts);
    current_ = std::make_shared<const Version>(std::move(first));
    return absl::OkStatus();
  }

  VersionHandle current() const {
    absl::MutexLock lock(&mutex_);
    return current_;
  }
  // Times that the files changed into what cannot be used.
  int64_t failures() const {
    absl::MutexLock lock(&mutex_);
    return failures_;
  }

  // Reads the files once more. What cannot be used counts only if the last look
  // found the same: before, it may be half written.
  void Refresh() {
    absl::MutexLock looking(&looking_);
    // Files are read without the other lock: calls ask for what is in use.
    absl::StatusOr<Texts> texts = parts_.read();
    if (!texts.ok()) return NoteBroken(Texts(), texts.status());
    if (*texts == texts_) {
      broken_.reset();
      return;
    }
    absl::StatusOr<Version> next = parts_.make(*texts, current());
    if (!next.ok()) return NoteBroken(*std::move(texts), next.status());
    broken_.reset();
    texts_ = *std::move(texts);
    const auto now = std::make_shared<const Version>(*std::move(next));
    {
      absl::MutexLock lock(&mutex_);
      current_ = now;
    }
    parts_.on_change(*now);
  }

  // Calls Refresh() as often as this, on a thread of its own.
  void Watch(absl::Duration interval) {
    thread_ = std::thread([this, interval] {
      while (!StopsWithin(interval)) Refresh();
    });
  }

 private:
  // What was found that cannot be used.
  struct Broken {
    Texts texts;
    std::string why;
    bool told = false;
  };

  bool StopsWithin(absl::Duration interval) {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&stopping_), interval);
  }

  void NoteBroken(Texts texts, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(looking_) {
    std::string why(status.message());
    if (!broken_.has_value() || broken_->texts != texts ||
        broken_->why != why) {
      broken_ = Broken{std::move(texts), std::move(why)};
      return;
    }
    if (std::exchange(broken_->told, true)) return;
    {
      absl::MutexLock lock(&mutex_);
      ++failures_;
    }
    parts_.on_failure(why, *current());
  }

  const Parts parts_;

  absl::Mutex looking_ ABSL_ACQUIRED_BEFORE(mutex_);
  Texts texts_ ABSL_GUARDED_BY(looking_);  // that current_ is made of
  std::optional<Broken> broken_ ABSL_GUARDED_BY(looking_);

  mutable absl::Mutex mutex_;
  VersionHandle current_ ABSL_GUARDED_BY(mutex_);
  int64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace engram

// ReplyBudget: the memory of answers that come in one piece, from before they
// are made until the client has read them. Streams need none: each is bounded
// by its TokenStream.
//
// One client has at most half of it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace engram {

// Thread-safe.
class ReplyBudget {
 public:
  explicit ReplyBudget(int64_t bytes) : bytes_(bytes) {}

  int64_t used() const;

 private:
  friend class ReplyReservation;

  // Takes `bytes` more (or fewer: then OK).
  absl::Status Change(const std::string& client, int64_t bytes);

  const int64_t bytes_;
  mutable absl::Mutex mutex_;
  int64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, int64_t> used_by_ ABSL_GUARDED_BY(mutex_);
};

// What one answer has of the budget, which must outlive it.
// Not thread-safe; one per call.
class ReplyReservation {
 public:
  ReplyReservation(ReplyBudget* budget, std::string client)
      : budget_(budget), client_(std::move(client)) {}
  ~ReplyReservation() { Resize(0).IgnoreError(); }
  ReplyReservation(const ReplyReservation&) = delete;
  ReplyReservation& operator=(const ReplyReservation&) = delete;

  // RESOURCE_EXHAUSTED, with nothing changed, if there is no room for more.
  absl::Status Resize(int64_t bytes);
  int64_t bytes() const { return taken_; }

 private:
  ReplyBudget* const budget_;
  const std::string client_;
  int64_t taken_ = 0;
};

}  // namespace engram

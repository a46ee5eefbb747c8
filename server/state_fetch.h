// StateFetch: a committed state that lies in a slot of another device, on its
// way through RAM to a sequence that goes on with it here.
//
// Thread-safe: the other device's engine answers, this one's takes it.
#pragma once

#include <atomic>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "server/state_snapshots.h"

namespace engram {

class StateFetch {
 public:
  using Answer = absl::StatusOr<StateSnapshots::Snapshot>;

  // Once.
  void End(Answer answer) {
    answer_ = std::move(answer);
    is_over_.store(true, std::memory_order_release);
  }
  bool is_over() const { return is_over_.load(std::memory_order_acquire); }
  // REQUIRES: it is over.
  const Answer& answer() const { return *answer_; }

 private:
  std::optional<Answer> answer_;
  std::atomic<bool> is_over_ = false;
};

}  // namespace engram

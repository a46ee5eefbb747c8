// CallFeed: the feed of a call that has one. There is none until the call's
// message is read, and the client may go away before.
//
// Thread-safe.
#pragma once

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/turn_feed.h"

namespace engram {

class CallFeed {
 public:
  // Once. Abandons the feed if the client has gone meanwhile.
  void Set(std::shared_ptr<TurnFeed> feed) {
    absl::Status gone;
    {
      absl::MutexLock lock(&mutex_);
      feed_ = feed;
      gone = gone_;
    }
    if (!gone.ok()) feed->Abandon(gone);
  }

  // The client cancelled or went away, for `reason`.
  void Abandon(const absl::Status& reason) {
    std::shared_ptr<TurnFeed> feed;
    {
      absl::MutexLock lock(&mutex_);
      gone_.Update(reason);
      feed = feed_;
    }
    if (feed != nullptr) feed->Abandon(reason);
  }

  // As TurnFeed::Pop. REQUIRES: Set.
  TurnFeed::State Pop(Event* event, absl::Status* status) {
    std::shared_ptr<TurnFeed> feed;
    {
      absl::MutexLock lock(&mutex_);
      feed = feed_;
    }
    return feed->Pop(event, status);
  }

 private:
  absl::Mutex mutex_;
  std::shared_ptr<TurnFeed> feed_ ABSL_GUARDED_BY(mutex_);
  absl::Status gone_ ABSL_GUARDED_BY(mutex_);  // why the client is, if it is
};

}  // namespace engram

// WatchedFiles: files of which something is made, and made anew when they
// change.
//
// What is in use stays as it is until the files hold a whole that can be used:
// what is damaged, half written or out of date changes nothing, and is told
// and counted once.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace engram {

class WatchedFiles {
 public:
  using Texts = std::vector<std::string>;  // what the files hold

  // One call at a time, which must not call back.
  struct Parts {
    std::function<absl::StatusOr<Texts>()> read;
    // Makes of the texts what is in use from now on; an error changes nothing.
    std::function<absl::Status(const Texts&)> use;
    // The files changed into what cannot be used, because of `why`.
    std::function<void(const std::string& why)> on_failure;
  };

  explicit WatchedFiles(Parts parts);
  ~WatchedFiles();

  // Once, before all else. Errors are those of `read` and `use`.
  absl::Status Load();

  // Times that the files changed into what cannot be used.
  int64_t failures() const;

  // Reads the files once more, and uses them if they have changed. What cannot
  // be used counts only if the last look found the same: before, it may be half
  // written.
  void Refresh();
  // Calls Refresh() as often as this, on a thread of its own.
  void Watch(absl::Duration interval);

 private:
  // What was found that cannot be used.
  struct Broken {
    Texts texts;
    std::string why;
    bool told = false;
  };

  bool StopsWithin(absl::Duration interval);
  void NoteBroken(Texts texts, std::string why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(looking_);

  const Parts parts_;

  absl::Mutex looking_ ABSL_ACQUIRED_BEFORE(mutex_);  // held over a look
  Texts used_ ABSL_GUARDED_BY(looking_);
  std::optional<Broken> broken_ ABSL_GUARDED_BY(looking_);

  mutable absl::Mutex mutex_;
  int64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace engram

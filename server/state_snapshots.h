// StateSnapshots: copies of committed states for whoever asks, so that no step
// waits for a large one: where a device copies beside its steps, a whole state
// at a time, else between them, and a part at a time.
//
// A state that lies in RAM, or of whose slot a copy is kept, is not copied at
// all: blocks never change, and many may hold one.
//
// Engine thread only.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "server/session_store.h"
#include "server/state_copies.h"

namespace engram {

class StateSnapshots {
 public:
  // The state of `session` after its last committed turn, when it was asked for
  // or later, as a block; nullptr if nothing was fed.
  struct Snapshot {
    CommittedTurns turns;
    std::shared_ptr<const StateBlock> block;
  };
  // NOT_FOUND if the session was deleted; ABORTED if its state has got into a
  // slot of another device meanwhile.
  using Done = std::function<void(absl::StatusOr<Snapshot>)>;

  // Both must outlive this. At most `most` wait at a time. `copies` are those
  // of the model's device of that index.
  StateSnapshots(StateCopies* copies, SessionStore* sessions, int most,
                 int device = 0)
      : copies_(*copies), sessions_(*sessions), most_(most), device_(device) {}

  // `done` is called by Advance; at once with UNAVAILABLE if too many wait.
  void Add(SessionHandle session, Done done);
  // The same for a request that has been admitted: however many wait.
  void AddForRequest(SessionHandle session, Done done);

  bool empty() const { return jobs_.empty(); }
  // Copies for about a millisecond at most. False if nothing is left to do, or
  // not before a copy is done. INTERNAL if the device failed; whoever asked for
  // that copy was told.
  absl::StatusOr<bool> Advance();
  // Waits for all.
  void Finish();

 private:
  struct Job {
    SessionHandle session;
    Done done;
    // The copy that has begun: of which state, and how much of it.
    int slot = -1;  // in the store's numbers
    CommittedTurns turns;
    std::shared_ptr<StateBlock> block;
    bool is_copied_beside = false;
    size_t begun = 0;  // bytes
    int64_t copy = 0;  // of the last of them
    int beginnings = 0;

    bool is_begun() const { return block != nullptr && begun == block->size(); }
  };

  // Begins the copy of that state.
  absl::Status BeginCopy(Job* job, const SessionStore::Location& location);
  // Goes on with it; takes what it copies from `budget`.
  absl::Status CopyPart(Job* job, size_t* budget);
  // Takes what it copies from `budget`. False if that was not enough.
  bool Work(Job* job, size_t* budget, absl::StatusOr<Snapshot>* result);

  StateCopies& copies_;
  SessionStore& sessions_;
  const int most_;
  const int device_;
  std::deque<Job> jobs_;
};

}  // namespace engram

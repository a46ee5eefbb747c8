// StateSnapshots: copies of committed states for whoever asks, between steps
// and a part at a time, so that no step waits for a large one.
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
#include "model/state_pool.h"
#include "server/session_store.h"

namespace engram {

class StateSnapshots {
 public:
  // The state of `session` after its last committed turn, as a block; nullptr
  // if nothing was fed.
  struct Snapshot {
    CommittedTurns turns;
    std::shared_ptr<const StateBlock> block;
  };
  // NOT_FOUND if the session was deleted; ABORTED if its state has got into a
  // slot of another device meanwhile.
  using Done = std::function<void(absl::StatusOr<Snapshot>)>;

  // Both must outlive this. At most `most` wait at a time. `states` are those
  // of the model's device of that index.
  StateSnapshots(const StatePool* states, SessionStore* sessions, int most,
                 int device = 0)
      : states_(*states), sessions_(*sessions), most_(most), device_(device) {}

  // `done` is called by Advance; at once with UNAVAILABLE if too many wait.
  void Add(SessionHandle session, Done done);
  // The same for a request that has been admitted: however many wait.
  void AddForRequest(SessionHandle session, Done done);

  bool empty() const { return jobs_.empty(); }
  // Copies for about a millisecond at most. False if nothing is left to do.
  // INTERNAL if the device failed; whoever asked for that copy was told.
  absl::StatusOr<bool> Advance();
  void Finish();

 private:
  struct Job {
    SessionHandle session;
    Done done;
    // The copy that has begun: of which state, and how much of it.
    int slot = -1;  // in the store's numbers
    int64_t version = -1;
    std::shared_ptr<StateBlock> block;
    size_t copied = 0;
    int beginnings = 0;
  };

  // Begins the copy of that state.
  absl::Status BeginCopy(Job* job, const SessionStore::Location& location);
  // Takes what it copies from `budget`. False if that was not enough.
  bool Work(Job* job, size_t* budget, absl::StatusOr<Snapshot>* result);

  const StatePool& states_;
  SessionStore& sessions_;
  const int most_;
  const int device_;
  std::deque<Job> jobs_;
};

}  // namespace engram

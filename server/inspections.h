// Inspections: looks into sessions' states (model/inspection.h) that wait for
// their turn, one after another, a part of one between two steps: so that no
// stream waits for longer than a part takes, whatever is asked.
//
// The one whose turn it is has the state as it is committed then, as a block
// that never changes; the others have none, so that however many wait, one
// state at most is kept for them. Tenants take turns, and each has at most half
// of the places.
//
// Engine thread only.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/inspection.h"
#include "model/model.h"
#include "server/session_store.h"
#include "server/state_snapshots.h"

namespace engram {

// What was found, and of which state: that after `turns`.
struct SessionLook {
  CommittedTurns turns;
  InspectionAnswer answer;
};

struct SessionQuestion {
  TenantHandle tenant;
  SessionHandle session;  // nullptr: a new sequence
  // Without a state. The session's pending token is fed before its tokens; if
  // the state is only to be described and there is such a token, it is the one
  // that comes next.
  InspectionQuestion asked;
  // OK while somebody waits for the answer, else why nobody does. Any thread.
  std::function<absl::Status()> may_go_on;
  // Called once, on the engine's thread. NOT_FOUND: the session was deleted;
  // UNAVAILABLE: too many wait, or the server stops; INVALID_ARGUMENT: the
  // sequence would become longer than can be; INTERNAL: the device failed.
  std::function<void(absl::StatusOr<SessionLook>)> done;
};

class Inspections {
 public:
  // Asks for a session's state: `found` is called once, on the engine's thread,
  // at once or later.
  using Fetch =
      std::function<void(SessionHandle session, StateSnapshots::Done found)>;

  // `model` must outlive this. At most `most` wait at a time.
  Inspections(Model* model, int most, Fetch fetch)
      : model_(*model), most_(most), fetch_(std::move(fetch)) {}

  void Add(SessionQuestion question);

  bool empty() const { return !current_.has_value() && waiting_.empty(); }
  int waiting() const { return static_cast<int>(waiting_.size()); }
  // Does a part. False if there is nothing to do, or nothing before a state
  // that was asked for has come. INTERNAL if the device failed; whoever asked
  // was told. REQUIRES: no step is begun.
  absl::StatusOr<bool> Advance();
  // All that there are end with `status`.
  void End(const absl::Status& status);

 private:
  struct Current {
    SessionQuestion question;
    std::optional<absl::StatusOr<StateSnapshots::Snapshot>> snapshot;
    std::unique_ptr<Inspection> inspection;
  };

  void BeginNext();
  // Once the state has come.
  absl::Status BeginInspection();
  void EndCurrent(absl::StatusOr<SessionLook> look);

  Model& model_;
  const int most_;
  const Fetch fetch_;
  std::deque<SessionQuestion> waiting_;
  std::optional<Current> current_;
  int64_t current_number_ = 0;  // a state that comes for another is none's
  TenantHandle last_tenant_;
};

}  // namespace engram

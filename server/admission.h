// Admission: accepts a request or refuses it at once, and hands what it accepts
// to an engine through its EngineInbox: where several devices run the model, to
// the one that has the session's state, or room (server/device_choice.h).
//
// Submit never blocks and never computes: it checks limits, reserves memory and
// a place in the queue, begins the turn on the session (server/session_store.h
// has the order of checks) and queues. What it accepts ends exactly once,
// through its TokenStream.
//
// Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/clock.h"
#include "server/engine_inbox.h"
#include "server/model_capacity.h"
#include "server/sequence.h"
#include "server/session_store.h"
#include "server/tenant_budget.h"
#include "server/turn_record.h"

namespace engram {

struct AdmissionLimits {
  int max_queue = 1024;  // of each engine
  // Of those that wait or run: SequenceBytes.
  size_t request_bytes = size_t{512} << 20;
  // That a request may wait for a slot (server/queue_time.h).
  absl::Duration max_queue_time = absl::InfiniteDuration();
  int64_t max_prompt_tokens = int64_t{1} << 20;
  int64_t max_generated_tokens = int64_t{1} << 20;
  int64_t max_score_tokens = int64_t{1} << 16;
  int stream_tokens = 256;  // of one TokenStream
};

// What admission knows of the model that it queues for.
struct AdmissionModel {
  int number = 0;  // SessionStore::AddModel
  int64_t vocabulary_size = 0;
  ModelCapacity capacity;
  const Tokenizer* tokenizer = nullptr;  // may be nullptr
  int devices = 1;                       // that run it
};

class Admission {
 public:
  // All pointers must outlive this.
  Admission(const AdmissionLimits& limits, AdmissionModel model,
            SessionStore* sessions, Clock* clock);

  using Admitted = std::variant<std::shared_ptr<TokenStream>,
                                std::shared_ptr<const TurnRecord>>;
  // A stream of events to come, or the record of a turn that has committed, to
  // be replayed. INVALID_ARGUMENT: over a fixed limit, an id out of range,
  // longer than the model can ever hold.
  // RESOURCE_EXHAUSTED: TenantPlace::Take.
  // UNAVAILABLE: EngineInbox::Reserve, or the requests that wait and run leave
  // no memory for it.
  // Others: SessionStore::BeginTurn, Find, UseCheckpoint.
  absl::StatusOr<Admitted> Submit(Request request);

  // As SessionStore::MakeRequestId.
  std::string MakeRequestId(const SessionName& session) const {
    return sessions_->MakeRequestId(session);
  }

  // Of the engine of one of the model's devices.
  EngineInbox& inbox(int device = 0) { return *inboxes_[device]; }
  // As EngineInbox::Close, of all of them.
  void Close(const std::string& reason);

 private:
  // Where the request is to run.
  EngineInbox& ChooseInbox(const Request& request) const;
  // A place of its tenant's and in that queue, and the sequence's memory.
  absl::StatusOr<EngineInbox::Place> Reserve(Sequence* sequence,
                                             EngineInbox* inbox);
  // UNAVAILABLE if those that wait and run leave no room for it; `inbox` says
  // when to come again.
  absl::StatusOr<TenantBudget::Share> TakeMemory(const Request& request,
                                                 const EngineInbox& inbox);
  // Whether the request could run; the record, if it is answered from one.
  absl::StatusOr<std::shared_ptr<const TurnRecord>> FindRecord(
      const Request& request) const;
  // The same, and the sequence's turn has begun unless there is a record.
  absl::StatusOr<std::shared_ptr<const TurnRecord>> Begin(Sequence* sequence);
  // Of a request that is no turn: nullptr if it names none.
  absl::StatusOr<SessionHandle> FindSession(const Request& request) const;
  // The same of a request without a session, which may start from a checkpoint.
  absl::StatusOr<SessionHandle> FindCheckpoint(const Request& request) const;
  absl::Status CheckLimits(const Request& request) const;
  absl::Status CheckReceived(const Request& request) const;

  const AdmissionLimits limits_;
  const AdmissionModel model_;
  SessionStore* const sessions_;
  Clock* const clock_;
  TenantBudget memory_;
  std::vector<std::unique_ptr<EngineInbox>> inboxes_;  // of the devices
  // From the choice of a device until there is a place: who chooses next must
  // see it.
  absl::Mutex choosing_;
};

}  // namespace engram

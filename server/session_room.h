// SessionRoom: who leaves, and in which order, when bytes, places or time run
// out. Some dozens at a time: whoever wants more lets go of the lock between.
//
// Under the session store's lock.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/session_store.h"
#include "server/session_table.h"

namespace engram {

class SessionRoom {
 public:
  // `table` must outlive this.
  SessionRoom(const SessionLimits& limits, SessionTable* table)
      : limits_(limits), table_(table) {}

  enum class Found { kFits, kNotYet, kNone };
  // Drops what is missed least until `bytes` more fit, but nothing of `keep`'s;
  // kNotYet after some dozens of sessions. Nothing is dropped for more bytes
  // than there are in all.
  Found FindBytes(size_t bytes, const Session* keep);
  // Part of the way back within the bytes: idle sessions in slots leave too if
  // nothing else does. False if there is more to be done.
  bool TrimSome(const Session* keep);
  // Another session leaves if there are too many for one more.
  // RESOURCE_EXHAUSTED if all have running turns.
  absl::Status FindPlace();
  // Forgets sessions whose time has come. False if there are more.
  bool ExpireSome(absl::Time now);

 private:
  // In this order: a copy of a state that is in a slot, an idle session in RAM,
  // a long answer kept for repeats. False if there is none of them.
  bool DropOne(const Session* keep);
  void DropAnswer(Session* session);
  void DropCopy(Session* session);
  void EvictForGood(Session* session, const char* reason);

  const SessionLimits limits_;
  SessionTable* const table_;
};

}  // namespace engram

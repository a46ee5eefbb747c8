// SessionRoom: who leaves, and in which order, when bytes, places or time run
// out. Some dozens at a time: whoever wants more lets go of the lock between.
//
// Each tenant has a share of bytes and places: by weight, of those who have
// sessions. What others leave of theirs may be used; when all is taken, it is
// given back by who takes the most for its weight, who then is over its share,
// since the shares come to all there is. Who is within its own loses nothing
// for the sake of others, as long as these have something to give back. Of a
// tenant's sessions the one used least recently leaves first.
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
  // Drops what is missed least until `bytes` more fit, but nothing of `keep`'s,
  // for whose tenant they are; kNotYet after some dozens of sessions. Nothing
  // is dropped for more bytes than there are in all.
  Found FindBytes(size_t bytes, const Session* keep);
  // Part of the way back within the bytes: idle sessions in slots leave too if
  // nothing else does. False if there is more to be done.
  bool TrimSome(const Session* keep);
  // Another session leaves if there are too many for one more of `tenant`.
  // RESOURCE_EXHAUSTED if all have running turns.
  absl::Status FindPlace(const TenantHandle& tenant);
  // Forgets sessions whose time has come. False if there are more.
  bool ExpireSome(absl::Time now);

 private:
  // Who asks for more, and how much for its weight; a number below 0: nobody.
  struct Asking {
    int tenant = -1;
    double more = 0;
  };

  static Asking AskingFor(const Session* keep, size_t bytes);
  // Lets the tenants give something back, whoever takes the most first, as if
  // who asks had what it asks for already. `drop` says of a tenant by number
  // whether it did; false if none did.
  template <typename Drop>
  static bool GiveBack(const TenantsByLoad& tenants, Asking asking, Drop drop);

  // Of a tenant by number, in this order: a copy of a state that is in a slot,
  // an idle session in RAM, a long answer kept for repeats. False if there is
  // none of them.
  bool DropOne(int tenant, const Session* keep);
  void DropAnswer(Session* session);
  void DropCopy(Session* session);
  void EvictForGood(Session* session, const char* reason);

  const SessionLimits limits_;
  SessionTable* const table_;
};

}  // namespace engram

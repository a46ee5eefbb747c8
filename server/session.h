// Session: what the store keeps of one session. Only the store and its parts
// see its fields; all but the first group are guarded by the store's mutex.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/remembered_turns.h"
#include "server/session_name.h"
#include "server/session_store.h"

namespace engram {

struct Session {
  explicit Session(SessionName name) : name(std::move(name)) {}

  // Constant.
  const SessionName name;
  int model = 0;
  absl::Time create_time;
  absl::Duration time_to_live;
  std::shared_ptr<const SessionLabels> labels;
  size_t label_bytes = 0;  // LabelBytes of them

  CommittedTurns turns;
  int slot = -1;
  // Without a slot: the state. With one: a copy of it, if one was made.
  std::shared_ptr<const StateBlock> block;
  std::shared_ptr<const TurnRecord> record;
  RememberedTurns remembered;
  absl::Time last_used;
  int64_t use = 0;  // goes up with every use of any session

  bool running = false;
  bool made_by_turn = false;   // the running turn; gone if it does not commit
  bool is_checkpoint = false;  // no session: in no list, and never run
  bool deleted = false;
  size_t reserved_bytes = 0;
  size_t promised_bytes = 0;
  std::function<void(absl::Status)> cancel_turn;

  // Where it is listed, and what of it is counted.
  SessionsByUse* residence = nullptr;
  size_t counted_bytes = 0;  // its block apart

  bool has_slot_copy() const { return slot >= 0 && block != nullptr; }
  // Not yet in the table.
  bool is_new() const { return use == 0; }
  // A new one begins where the other is, and shares its state.
  void StartFrom(const CommittedTurns& start,
                 std::shared_ptr<const StateBlock> state);
  // All that it takes of RAM but for its block, which forks may share.
  size_t own_bytes() const;
};

// One that a table may take. It lives for `time_to_live` unless it says itself
// for how long.
SessionHandle MakeSession(NewSession created, absl::Duration time_to_live);

// What labels take of the heap.
size_t LabelBytes(const SessionLabels& labels);

}  // namespace engram

// Sequence: a request that is waiting or being run, and all that belongs to it:
// its slot, what it has still to feed, what it has said, where its events go.
//
// Made by admission, then owned by the engine; engine thread only from there.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/request.h"
#include "server/session_store.h"
#include "server/state_fetch.h"
#include "server/tenant.h"
#include "server/tenant_budget.h"
#include "server/token_stream.h"
#include "server/turn_text.h"

namespace engram {

struct Sequence {
  Sequence(Request taken, const Tokenizer* tokenizer,
           std::shared_ptr<TokenStream> events)
      : request(std::move(taken)),
        stream(std::move(events)),
        text(std::make_unique<TurnText>(tokenizer, request.stopping.stop)) {}

  Request request;
  std::shared_ptr<TokenStream> stream;
  TenantBudget::Share memory;  // SequenceBytes of the request
  TenantPlace place;           // until it has ended
  // The turn's session; else what it only looks at: a session that a score
  // follows, or a checkpoint. nullptr without.
  SessionHandle session;
  CommittedTurns start;  // what the session was before

  // Of what `start` tells, if another device had it in a slot; else nullptr.
  std::shared_ptr<StateFetch> fetch;

  int slot = -1;  // its own, while it runs (server/state_keeper.h)
  // Tokens to be fed: first the pending one, prompt and received; then each
  // sampled token in its turn.
  std::vector<int32_t> to_feed;
  size_t fed = 0;                  // of to_feed
  int64_t position = 0;            // tokens fed since the sequence began
  bool decoding = false;           // the prompt is fed
  std::vector<int32_t> generated;  // received ones included
  std::map<int32_t, int32_t> generated_counts;
  TokenSet seen;
  std::vector<int32_t> stop_ids;  // all that end the turn
  // Until it is handed to the stream, to be made by its reader; kept if there
  // are stop strings to be found (server/turn_text.h).
  std::unique_ptr<TurnText> text;
  // Set if the received tokens end the turn: nothing is to be sampled.
  std::optional<FinishReason> received_end;
  // What a repeat of a turn will be answered with, as in TurnRecord.
  std::vector<float> logprobs;
  std::vector<LogProbability> top;
  bool record_whole = true;
  int32_t scored = 0;  // prompt tokens with an event (kScore)

  // Its state while it has no slot, or is leaving it (server/state_keeper.h);
  // else nullptr.
  std::shared_ptr<const StateBlock> parked_state;
  int64_t steps = 0;  // that it was in
  // Since it got the slot that it has, those that left it out too.
  int64_t steps_in_slot = 0;
  int64_t steps_waited = 0;  // in a row that left it out though it could run
  bool over = false;         // ended; to be dropped

  absl::Time arrival;
  absl::Time start_time = absl::InfinitePast();   // first step planned
  absl::Time prefill_end = absl::InfinitePast();  // prompt fed
  absl::Time last_token_time = absl::InfinitePast();
  // Since when it waits for its reader, and the reader has read nothing.
  absl::Time paused_since = absl::InfiniteFuture();
  int64_t events_read = 0;  // by then

  bool is_turn() const {
    return session != nullptr && !request.session_id.empty() &&
           request.kind == RequestKind::kGenerate;
  }
  // It has had a slot.
  bool has_started() const { return start_time != absl::InfinitePast(); }
  size_t remaining() const { return to_feed.size() - fed; }
};

// What a sequence of this request takes of the heap from admission to its end,
// as HeapBytes counts; its answer and events apart.
size_t SequenceBytes(const Request& request);

// One that wants a slot.
struct WaitingRequest {
  int priority = 0;
  absl::Time arrival;
  int64_t prompt_tokens = 0;  // of what it has begun to feed, the rest
  int tenant = 0;             // Tenant::number
  double weight = 1;          // the tenant's
};

WaitingRequest AsWaiting(const Sequence& sequence);
// By priority, then arrival: among those of a tenant (server/slot_shares.h).
bool GoesBefore(const WaitingRequest& left, const WaitingRequest& right);

// Whether sampling `id` ends a turn.
bool IsStopToken(const Stopping& stopping, int32_t id);

// Whether the next token to be fed is scored too, by what its slot was fed
// before.
bool IsScoredBefore(const Sequence& sequence);

// What the tokens that the client has received make of the sequence's text,
// counts and end. Takes time with their number, so it is done before the engine
// has the sequence, and before its text is handed to the stream.
// INVALID_ARGUMENT: one that ends the turn is not the last.
absl::Status ReadReceived(Sequence* sequence);

// Lays the sequence out to run after `start`: what is to be fed.
// REQUIRES: ReadReceived.
void Prepare(Sequence* sequence, int64_t vocabulary_size);

}  // namespace engram

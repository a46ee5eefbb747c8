// Batch: what one step runs, and what comes out of it. Prefill and decode are
// the same row with other counts; nothing is padded. A row asks for an outcome
// and never for logits.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/outcomes.h"

namespace engram {

enum class Wanted {
  kNothing,  // a prompt chunk that is not the last
  kToken,    // the one that follows the row's last
  kScores,   // log-probabilities of given ids, each in its place
};

struct BatchRow {
  int slot = 0;                           // its state before the step
  absl::Span<const int32_t> tokens = {};  // at least one, each in [0, vocab)
  // Instead of tokens: the one that is drawn by the row of the step before,
  // which is not finished, that leaves its state in `slot`. If that token stops
  // its sequence (TokenDraw) or the row was not finite, nothing is fed: the
  // state stays as it is, and the row has no outcome. The draws' `newest` is
  // then the model's affair.
  bool follows = false;
  Wanted wanted = Wanted::kNothing;
  TokenDraw draw = {};  // kToken
  // kScores: scored[i] is told as what may follow tokens[i]; with
  // `scored_before` as what may follow tokens[i - 1], and scored[0] as what may
  // follow the slot's last fed token: the slot must have been fed.
  absl::Span<const int32_t> scored = {};  // no more than there are places
  bool scored_before = false;
  // Most probable ids that are told beside a token, whose log-probability is
  // told too if this is not 0, or beside each score.
  int32_t alternatives = 0;
  // Where its state goes; that of `slot` then survives, and blocks for keys and
  // values come from slot_out's. -1: it stays in `slot`, written over.
  int slot_out = -1;

  int out() const { return slot_out < 0 ? slot : slot_out; }

  // Each takes a row of logits.
  int outcomes() const {
    return wanted == Wanted::kToken    ? 1
           : wanted == Wanted::kScores ? static_cast<int>(scored.size())
                                       : 0;
  }
};

struct Batch {
  // No slot is written by two rows, or written by one and read by another.
  std::vector<BatchRow> rows;
};

struct RowOutcome {
  // False if the row's hidden state or a logit that it asked for is NaN or
  // infinite; its slot must then be thrown away, and its outcomes mean nothing.
  // Other rows are not affected.
  bool finite = true;
  // kToken: one; kScores: one for each id, in order. Valid until another step
  // begins.
  absl::Span<const Outcome> outcomes = {};
};

struct StepResult {
  std::vector<RowOutcome> rows;  // as in the batch
};

}  // namespace engram

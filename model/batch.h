// Batch: what one step runs. Prefill and decode are the same row with other
// counts; nothing is padded.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace engram {

enum class LogitsWanted {
  kNone,  // a prompt chunk that is not the last
  kLast,  // the next token's, after the row's last token
  kAll,   // after every token of the row
};

struct BatchRow {
  int slot = 0;
  absl::Span<const int32_t> tokens;  // at least one, each in [0, vocab)
  LogitsWanted logits = LogitsWanted::kNone;
  // Also those that the slot's last fed token left, before this row's first
  // token: they come first. The slot must have been fed.
  bool logits_before = false;

  int logits_rows() const {
    const int own = logits == LogitsWanted::kNone   ? 0
                    : logits == LogitsWanted::kLast ? 1
                                                    : int(tokens.size());
    return own + (logits_before ? 1 : 0);
  }
};

struct Batch {
  std::vector<BatchRow> rows;  // distinct slots
};

struct StepResult {
  // [sum of logits_rows, vocab] host memory, rows in order; valid until the
  // next step. Columns at or past the tokenizer's ids are -infinity.
  absl::Span<const float> logits;
  // Per row of the batch: false if its hidden state or a logit of it is NaN or
  // infinite; its slot must then be thrown away. Other rows are not affected.
  std::vector<bool> finite;
};

}  // namespace engram

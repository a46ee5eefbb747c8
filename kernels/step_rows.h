// StepRows: the ragged batch of one step, as a back end keeps it for its
// operations. The tokens of all rows are concatenated; a device may have rows
// of padding behind them, so that steps of nearly as many rows are alike to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace engram {

// One sequence's share of a step.
struct Row {
  // Its state is read in one slot and left in the other. Where they are equal
  // it is written over; else the state before the step survives, and what lay
  // in `slot_out` is lost. No slot is written by two rows, or written by one
  // and read by another; rows of 0 tokens that leave their slot as it is may
  // all have the same.
  int slot_in = 0;
  int slot_out = 0;
  int tokens = 0;        // >= 0; none: slot_out is as slot_in
  int64_t position = 0;  // tokens of its sequence before this step
  int offset = 0;        // first of its tokens, set by StepRows::Assign
  // The outcome of the step before whose token is fed, with `tokens` 1, unless
  // it stops (Outcome::stops): then the row has no tokens. -1: its tokens are
  // told.
  int follows = -1;
};

class StepRows {
 public:
  // The last padding() of them are no sequence's: they have no tokens, but a
  // place for one, and of what an operation leaves there nothing is read. They
  // leave slot 0 as it is.
  absl::Span<const Row> rows() const { return rows_; }
  int64_t padding() const { return padding_; }
  // Places for tokens, of all rows: their tokens, and one of each padding row.
  int64_t tokens() const { return tokens_; }
  // One per place, or none.
  absl::Span<const int32_t> ids() const { return ids_; }
  // Whether it is known where the rows' keys and values lie.
  bool has_blocks() const { return has_blocks_; }
  // The blocks of the tokens 0, 1, ... of a row's sequence, its own included.
  absl::Span<const int32_t> blocks(size_t row) const {
    return absl::MakeConstSpan(blocks_).subspan(
        first_blocks_[row], first_blocks_[row + 1] - first_blocks_[row]);
  }

  // Copies all of these. `blocks` has one list per row, or none for models
  // without attention; `ids` one per token, or none.
  void Assign(absl::Span<const Row> rows,
              absl::Span<const absl::Span<const int32_t>> blocks,
              absl::Span<const int32_t> ids);
  // Adds so many rows of padding.
  void Pad(int64_t rows);
  // Nothing but padding, which has ids, and lists of no blocks if it has any.
  void AssignPadding(int64_t rows, bool has_blocks);

 private:
  struct SlotUse {
    int slot;
    bool written;
  };

  // No slot is written by a row and used by another.
  void CheckSlots();

  std::vector<Row> rows_;
  int64_t padding_ = 0;
  int64_t tokens_ = 0;
  std::vector<int32_t> ids_;
  bool has_blocks_ = false;
  std::vector<int32_t> blocks_;
  std::vector<size_t> first_blocks_;
  std::vector<SlotUse> slot_uses_;
};

}  // namespace engram

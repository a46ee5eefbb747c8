// StepTable: what kernels see of a step's rows (kernels/step_rows.h). It lies
// in device memory, at one address for every step, so that a recorded graph can
// be run for other rows than those it was recorded with.
#pragma once

#include <cstdint>

namespace engram::cuda {

// One row, as Row of kernels/step_rows.h.
struct StepRow {
  int32_t slot_in = 0;
  int32_t slot_out = 0;
  int32_t tokens = 0;    // 0: slot_out becomes as slot_in, nothing else happens
  int32_t offset = 0;    // first of its tokens among those of all rows
  int64_t position = 0;  // tokens of its sequence before this step
  int32_t first_block = 0;  // of its sequence, in block_ids
  int32_t follows = -1;     // FollowAnswers is to set its token; -1: it is told
};

// Given to kernels by value. The pointers are of the device; what they point to
// is the step's once PrepareStep's copy and kernel, which lie before all others
// of the step in the stream, are done.
struct StepTable {
  const StepRow* rows = nullptr;
  const int32_t* row_of_token = nullptr;
  const int32_t* ids = nullptr;        // one per token, where they are told
  const int32_t* block_ids = nullptr;  // of all rows, one after the other

  // Known to the host, for choosing grids and nothing that a result depends on.
  // In a recorded graph they are those of the step that was recorded, whose
  // rows have a token each. Rows may have none when it is launched: tokens that
  // are too many have a row whose tokens end before them.
  int64_t row_count = 0;
  int64_t token_count = 0;
  int64_t longest_row = 0;  // tokens

  // Whether every row had one token when the host laid them out.
  bool HasOneTokenARow() const {
    return longest_row == 1 && token_count == row_count;
  }
};

}  // namespace engram::cuda

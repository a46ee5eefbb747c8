// StepParts: which parts the rows of a step have (row_chunks.h), so that the
// host launches nothing for what none of them has.
#pragma once

#include "absl/types/span.h"
#include "kernels/step_rows.h"

namespace engram::cuda {

struct StepParts {
  bool heads =
      false;  // tokens in front of whole chunks, or rows without chunks
  bool chunks = false;
  bool tails = false;
};

StepParts PartsOf(absl::Span<const Row> rows);

}  // namespace engram::cuda

#include "model/begun_step.h"

#include <algorithm>

#include "absl/types/span.h"
#include "kernels/status.h"

namespace engram {

int BegunStep::DrawnFor(int slot, size_t place) const {
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t row = (place + i) % rows.size();
    if (rows[row].slot_out != slot) continue;
    ENGRAM_CHECK(first_outcomes[row + 1] == first_outcomes[row] + 1);
    return first_outcomes[row];
  }
  ENGRAM_CHECK(false);  // it follows no row
  return -1;
}

void BegunStep::MarkStopped(const BegunStep& before) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const int follows = rows[i].follows;
    if (follows >= 0) stopped[i] = before.outcomes[follows].stops;
  }
}

StepResult BegunStep::Result() const {
  StepResult result;
  for (size_t i = 0; i < rows.size(); ++i) {
    RowOutcome row;
    if (!stopped[i]) {
      row.outcomes = absl::MakeConstSpan(outcomes).subspan(
          first_outcomes[i], first_outcomes[i + 1] - first_outcomes[i]);
      row.finite = finite_rows[i] != 0 &&
                   std::all_of(row.outcomes.begin(), row.outcomes.end(),
                               [](const Outcome& one) { return one.finite; });
    }
    result.rows.push_back(row);
  }
  return result;
}

}  // namespace engram

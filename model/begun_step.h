// BegunStep: what a model keeps of a step from its begin to its end.
//
// Engine thread only, like the model that owns it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "model/batch.h"

namespace engram {

struct BegunStep {
  std::vector<Row> rows;      // as they were asked for
  std::vector<bool> stopped;  // of rows that follow: nothing was fed
  // Of each row, and how many there are in all.
  std::vector<int> first_outcomes;
  // On a device, both are there when the step is done.
  std::vector<Outcome> outcomes;      // of each logits row; the rest is unused
  std::vector<uint8_t> finite_rows;   // of the rows, and of their padding
  std::unique_ptr<DeviceEvent> done;  // nullptr: there was nothing to do

  // Which of the outcomes is drawn for what is left in `slot`: at once if that
  // is the row `place`. REQUIRES: a row leaves its state there, and wants a
  // token.
  int DrawnFor(int slot, size_t place) const;
  // Rows that follow what stopped in the step `before` feed nothing. REQUIRES:
  // that is done.
  void MarkStopped(const BegunStep& before);
  // REQUIRES: it is done, and marked if it was begun ahead.
  StepResult Result() const;
};

}  // namespace engram

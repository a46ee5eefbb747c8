// FiniteRows: which rows of a step are finite, found on the device and told
// later.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/device_queue.h"
#include "kernels/cuda/step_table.h"
#include "kernels/memory.h"

namespace engram::cuda {

// Engine thread only.
class FiniteRows {
 public:
  // Takes room for so many rows, unless there is. Errors: the device's.
  // REQUIRES: all that was begun is delivered.
  absl::Status Reserve(int64_t rows);
  // What that takes the first time.
  static MemoryNeed NeedOf(int64_t rows);

  // Backend::FiniteRows: `finite` is filled by a delivery of `queue`.
  void Begin(DeviceQueue* queue, const StepTable& step, ConstMatrix x,
             int64_t width, absl::Span<uint8_t> finite);

 private:
  // Steps that may be begun and not yet told.
  static constexpr int kSteps = 4;
  struct Counts {
    std::unique_ptr<Buffer> device;  // [rows] uint32_t
    std::unique_ptr<Buffer> host;    // likewise, page-locked
    bool awaited = false;            // until they are delivered
  };

  int64_t rows_ = 0;  // that there is room for
  Counts counts_[kSteps];
  int next_ = 0;
};

}  // namespace engram::cuda

// StepUpload: the memory through which a step's tables come to the device, and
// the copy that brings them there: the rows (step_tables.h) in front, what they
// are asked for (outcomes.h) behind them.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/memory.h"

namespace engram::cuda {

// Of the device there is one such memory, at one address; of the host two, one
// for a step whose copy is still to run and one for the step that is laid out.
//
// Engine thread only.
class StepUpload {
 public:
  StepUpload() = default;
  ~StepUpload();
  StepUpload(const StepUpload&) = delete;
  StepUpload& operator=(const StepUpload&) = delete;

  // Room for so many bytes of rows, and of requests; more than once is the most
  // of each. *moved: what is on the device lies elsewhere from now on, and
  // `stream` was waited for. Errors: the device's, and RESOURCE_EXHAUSTED,
  // which leaves what there was.
  absl::Status Reserve(size_t row_bytes, size_t request_bytes,
                       cudaStream_t stream, bool* moved);
  // What that takes the first time.
  static MemoryNeed NeedOf(size_t row_bytes, size_t request_bytes);
  size_t row_bytes() const { return row_bytes_; }
  size_t request_bytes() const { return request_bytes_; }

  // Memory of the host's for the next step, once its last copy has run. Errors:
  // the device's.
  absl::StatusOr<std::byte*> Begin();
  // Memory for requests, at the same places as on the device: that of the
  // step's rows, or more if it has been asked for since those were begun.
  absl::StatusOr<std::byte*> BeginRequests();
  // Lets `stream` copy these bytes of what was begun last to the device.
  absl::Status Copy(size_t begin, size_t end, cudaStream_t stream);

  // Of the device.
  std::byte* memory() const;

 private:
  // Page-locked; free again when the event is reached.
  struct Staging {
    std::unique_ptr<Buffer> memory;
    cudaEvent_t copied = nullptr;
  };

  size_t row_bytes_ = 0;
  size_t request_bytes_ = 0;
  std::unique_ptr<Buffer> device_;
  static constexpr size_t kStagings = 2;
  Staging stagings_[kStagings];
  int current_ = 0;
  bool takes_requests_ = false;  // the current one has none yet
};

}  // namespace engram::cuda

// OutcomeKernels: Backend::Outcomes on a device. Requests go there with the
// step's rows or behind them (step_upload.h), answers come back through pinned
// memory; tokens are drawn and counted where the logits are (kernels/cuda/
// outcome_rows.h). The host waits for none of it: a step that follows finds its
// tokens on the device.
//
// Tokens, stops, finite flags and alternatives are those of the CPU. The log-
// probabilities are within 1e-6 of them: exponentials are summed up as
// integers, so that their sum depends on nothing but the row either.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/device_queue.h"
#include "kernels/cuda/outcome_rows.h"
#include "kernels/cuda/step_table.h"
#include "kernels/cuda/step_upload.h"
#include "kernels/operations.h"
#include "kernels/outcomes.h"

namespace engram::cuda {

// Engine thread only.
class OutcomeKernels {
 public:
  // `upload` must outlive this.
  explicit OutcomeKernels(StepUpload* upload) : upload_(*upload) {}

  // What Reserve takes the first time; and what it is to be for of the upload,
  // in bytes of requests. Nothing for no rows.
  static MemoryNeed NeedOf(int64_t rows, int64_t ids);
  static size_t RequestBytes(int64_t rows, int64_t ids);

  // Takes all memory for `rows` rows of `ids` logits, beside the upload's; more
  // than once is the most of each, and what has been recorded before is no
  // longer right. RESOURCE_EXHAUSTED with the bytes asked for, which leaves
  // what there was. REQUIRES: all that was begun is delivered.
  absl::Status Reserve(int64_t rows, int64_t ids);

  // As Backend::Outcomes, of logits in device memory, behind the operations of
  // `queue`, by a delivery of which `outcomes` are filled. `step` holds the
  // rows that requests follow (TokenDraw::follower), and takes the first
  // `row_bytes` of the upload. What fails is the queue's failure;
  // RESOURCE_EXHAUSTED if a request has so many stop ids twice that no upload
  // has room for it.
  // REQUIRES: Reserve for as many rows and ids, and RequestBytes of the upload.
  void Begin(DeviceQueue* queue, const StepTable& step, size_t row_bytes,
             ConstMatrix logits, int64_t ids,
             absl::Span<const OutcomeRequest> requests,
             absl::Span<Outcome> outcomes);

  // Of the last rows begun, in device memory, for what comes behind them in the
  // queue. REQUIRES: Reserve.
  const OutcomeAnswer* answers() const;

  // --- The same in parts, of which the one in the middle can be recorded.

  // Whether these requests have room together, with so many rows of padding.
  bool FitTogether(absl::Span<const OutcomeRequest> requests, int64_t padding,
                   int64_t ids) const;
  // Lays them out in what the upload has begun: their rows at one place, their
  // lists from another on. Where those end; 0 if the queue has failed.
  size_t LayOut(DeviceQueue* queue, absl::Span<const OutcomeRequest> requests,
                int64_t padding, int64_t ids, size_t rows_at, size_t lists_at);
  // Finds the outcomes of all rows of the step, padding included, as they were
  // laid out and have been copied there. Their answers are the first of all.
  cudaError_t Find(cudaStream_t stream, const StepTable& step, size_t rows_at,
                   ConstMatrix logits, int64_t ids);
  // Lets the outcomes of what was laid out last be delivered, whose answers are
  // those from `first` on.
  void BringBack(DeviceQueue* queue, int64_t ids, absl::Span<Outcome> outcomes,
                 int64_t first = 0);

 private:
  // What some rows, padding included, take of an upload and of answers.
  struct Taken {
    int64_t rows = 0;
    int64_t alternatives = 0;
  };
  // Page-locked memory for some rows, from LayOut until they are delivered.
  struct Staging {
    std::unique_ptr<Buffer> answers;
    std::vector<int32_t> alternatives;  // that each row asks for
    Taken taken;
    bool awaited = false;
  };
  // One step is delivered while another is begun.
  static constexpr int kStagings = 2;

  // How many of the requests, from the first on, have room together.
  int64_t FittingRequests(absl::Span<const OutcomeRequest> requests,
                          int64_t padding, int64_t ids) const;
  // All of Begin for those of `requests` from `first` on that have room
  // together. How many; 0 if the queue has failed.
  int64_t BeginSome(DeviceQueue* queue, OutcomeWork work, size_t row_bytes,
                    int64_t first, absl::Span<const OutcomeRequest> requests,
                    absl::Span<Outcome> outcomes);
  // Of all rows that are begun together.
  OutcomeWork WorkOf(const StepTable& step, size_t rows_at, ConstMatrix logits,
                     int64_t ids) const;
  // Takes the answers, which have come.
  static void Deliver(const Staging& staging, int64_t ids,
                      absl::Span<Outcome> outcomes);

  StepUpload& upload_;
  int64_t rows_ = 0;
  int64_t ids_ = 0;
  std::unique_ptr<Buffer> strips_;
  // OutcomeAnswer of each row; behind those of rows begun together, their
  // alternatives.
  std::unique_ptr<Buffer> answers_;
  Staging stagings_[kStagings];  // laid out alike
  int last_ = 0;                 // of the stagings, that was laid out
};

}  // namespace engram::cuda

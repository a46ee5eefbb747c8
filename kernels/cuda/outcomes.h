// OutcomeKernels: Backend::Outcomes on a device. Requests go there through
// pinned memory, answers come back through it; tokens are drawn and counted
// where the logits are (kernels/cuda/outcome_rows.h).
//
// Tokens, stops, finite flags and alternatives are those of the CPU. The log-
// probabilities are within 1e-6 of them: exponentials are summed up as
// integers, so that their sum depends on nothing but the row either.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/outcome_rows.h"
#include "kernels/operations.h"
#include "kernels/outcomes.h"

namespace engram::cuda {

// Engine thread only.
class OutcomeKernels {
 public:
  // Takes all memory for `rows` rows of `ids` logits; more than once is the
  // most of each. RESOURCE_EXHAUSTED with the bytes asked for.
  absl::Status Reserve(int64_t rows, int64_t ids);

  // As Backend::Outcomes, of logits in device memory, behind what `stream` has
  // to do; waits until they are there. INTERNAL if the device failed;
  // RESOURCE_EXHAUSTED if a request has so many stop ids twice that no upload
  // has room for it. Outcomes mean nothing then.
  // REQUIRES: Reserve for as many rows and ids.
  absl::Status Run(cudaStream_t stream, ConstMatrix logits, int64_t ids,
                   absl::Span<const OutcomeRequest> requests,
                   absl::Span<Outcome> outcomes);

 private:
  // What the uploads and answers of some rows take.
  struct Room {
    size_t upload_bytes = 0;
    int64_t alternatives = 0;
  };

  // How many of the requests, from the first on, have room together.
  int64_t FittingRequests(absl::Span<const OutcomeRequest> requests,
                          int64_t ids) const;
  // Lays the requests out in pinned memory.
  Room LayOut(absl::Span<const OutcomeRequest> requests, int64_t ids);
  // Puts upload, kernel and the copy of the answers into the stream.
  absl::Status Begin(cudaStream_t stream, ConstMatrix logits, int64_t ids,
                     absl::Span<const OutcomeRequest> requests);
  // Takes the answers, which have come.
  void Finish(int64_t ids, absl::Span<const OutcomeRequest> requests,
              absl::Span<Outcome> outcomes) const;

  int64_t rows_ = 0;
  int64_t ids_ = 0;
  Room room_;
  std::unique_ptr<Buffer> strips_;
  std::unique_ptr<Buffer> upload_;   // OutcomeRow of each row, then their lists
  std::unique_ptr<Buffer> answers_;  // OutcomeAnswer of each, then alternatives
  std::unique_ptr<Buffer> pinned_upload_;
  std::unique_ptr<Buffer> pinned_answers_;
};

}  // namespace engram::cuda

// OutcomeKernels: Backend::Outcomes on a device. Requests go there through
// pinned memory, answers come back through it; tokens are drawn and counted
// where the logits are (kernels/cuda/outcome_rows.h). The host waits for none
// of it: a step that follows finds its tokens on the device.
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
#include "kernels/operations.h"
#include "kernels/outcomes.h"

namespace engram::cuda {

// Engine thread only.
class OutcomeKernels {
 public:
  // Takes all memory for `rows` rows of `ids` logits; more than once is the
  // most of each. RESOURCE_EXHAUSTED with the bytes asked for. REQUIRES: all
  // that was begun is delivered.
  absl::Status Reserve(int64_t rows, int64_t ids);

  // As Backend::Outcomes, of logits in device memory, behind the operations of
  // `queue`, by a delivery of which `outcomes` are filled. `step` holds the
  // rows that requests follow (TokenDraw::follower). What fails is the queue's
  // failure; RESOURCE_EXHAUSTED if a request has so many stop ids twice that no
  // upload has room for it.
  // REQUIRES: Reserve for as many rows and ids.
  void Begin(DeviceQueue* queue, const StepTable& step, ConstMatrix logits,
             int64_t ids, absl::Span<const OutcomeRequest> requests,
             absl::Span<Outcome> outcomes);

  // Of the last Begin, in device memory, for what comes behind it in the queue.
  const OutcomeAnswer* answers() const;

 private:
  // What the uploads and answers of some rows take.
  struct Room {
    size_t upload_bytes = 0;
    int64_t alternatives = 0;
  };
  // Page-locked memory for some rows, from Begin until they are delivered.
  struct Staging {
    std::unique_ptr<Buffer> upload;
    std::unique_ptr<Buffer> answers;
    std::vector<int32_t> alternatives;  // that each row asks for
    bool awaited = false;
  };
  // One step is delivered while another is begun.
  static constexpr int kStagings = 2;

  // How many of the requests, from the first on, have room together.
  int64_t FittingRequests(absl::Span<const OutcomeRequest> requests,
                          int64_t ids) const;
  // Begins those of them from `first` on that have room together, with all
  // others gone before. How many; 0 if the queue has failed.
  int64_t BeginSome(DeviceQueue* queue, OutcomeWork work, int64_t first,
                    absl::Span<const OutcomeRequest> requests,
                    absl::Span<Outcome> outcomes);
  // Lays the requests out in pinned memory.
  Room LayOut(absl::Span<const OutcomeRequest> requests, int64_t ids,
              Staging* staging) const;
  // Takes the answers, which have come.
  void Deliver(const Staging& staging, int64_t ids,
               absl::Span<Outcome> outcomes) const;

  int64_t rows_ = 0;
  int64_t ids_ = 0;
  Room room_;
  std::unique_ptr<Buffer> strips_;
  std::unique_ptr<Buffer> upload_;   // OutcomeRow of each row, then their lists
  std::unique_ptr<Buffer> answers_;  // OutcomeAnswer of each, then alternatives
  Staging stagings_[kStagings];      // laid out alike
  int next_ = 0;                     // of the stagings
};

}  // namespace engram::cuda

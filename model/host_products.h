// HostProducts: products of a few rows that lie in host memory with a model's
// weights, which lie in the back end's, in whatever format they are served.
// What looks into states (model/inspection.h) computes its large products here
// and all else on the host, so that it takes no second copy of the weights and
// needs no kernels of its own.
//
// Owns memory of the back end for the rows, taken when a model is loaded.
// Engine thread only, while no step is begun.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/blocks.h"
#include "kernels/outcomes.h"
#include "kernels/step_rows.h"

namespace engram {

class HostProducts {
 public:
  // For weights of at most so many inputs and outputs, and at most
  // kInspectedRows rows, or `max_rows` if they are less. `backend` must outlive
  // this. RESOURCE_EXHAUSTED: there is no memory.
  static absl::StatusOr<std::unique_ptr<HostProducts>> Create(Backend* backend,
                                                              int64_t inputs,
                                                              int64_t outputs,
                                                              int64_t max_rows);

  // The most rows of one call.
  int64_t rows() const { return rows_; }

  // INTERNAL anywhere: the device failed.

  // y = x Wᵀ, without the bias. REQUIRES: rows within rows().
  //   x  [rows, inputs], `stride` floats from one row to the next
  //   y  [rows, outputs]
  absl::Status Multiply(const PackedWeight& weight, int64_t rows,
                        const float* x, int64_t stride, float* y);
  // The same with the bias, if there is one.
  absl::Status Multiply(const LinearWeights& linear, int64_t rows,
                        const float* x, int64_t stride, float* y);
  // y += Wᵀ x by `rows` rows of W from `first` on.
  //   x  [rows]
  //   y  [inputs]
  absl::Status AddTransposed(const PackedWeight& weight, int64_t first,
                             int64_t rows, const double* x, double* y);
  // The rows of a table of tokens. REQUIRES: as Backend::Embed; ids within
  // rows().
  absl::Status Embed(const PackedWeight& table, absl::Span<const int32_t> ids,
                     float* embedded);
  // What the head makes of a vector that went through the final norm, of which
  // ids below `ids` may be drawn. REQUIRES: as Backend::Outcomes.
  //   hidden  [inputs of the head]
  absl::StatusOr<Outcome> Draw(const PackedWeight& head, const float* hidden,
                               int64_t ids, const OutcomeRequest& request);
  // Floats of the back end's memory; none of nullptr.
  absl::StatusOr<std::vector<float>> Read(const float* source,
                                          int64_t count) const;

 private:
  HostProducts(Backend* backend, int64_t rows)
      : backend_(backend), rows_(rows) {}

  Backend* const backend_;
  const int64_t rows_;
  std::unique_ptr<Buffer> x_;  // [rows, inputs]
  std::unique_ptr<Buffer> y_;  // [rows, outputs]
};

// As many rows as are looked into at once: a part of an inspection is the work
// of one layer on these, which is to be less than a step takes.
inline constexpr int64_t kInspectedRows = 4;

}  // namespace engram

// DiagonalSsm: the constants of a diagonal state-space model as DiagonalScan
// wants them, made from the parameters that H3 and S4D are stored with.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/blocks.h"
#include "model/weight_loader.h"

namespace engram {

struct DiagonalSsm {
  std::unique_ptr<Buffer> decay;  // [pairs, 2, channels]
  std::unique_ptr<Buffer> read;   // [pairs, 2, channels]
  std::unique_ptr<Buffer> d;      // [channels]

  DiagonalSsmWeights weights(int64_t pairs) const {
    return {pairs, decay->floats(), read->floats(), d->floats()};
  }
};

struct DiagonalSsmLayout {
  int64_t channels = 0;
  int64_t pairs = 0;  // complex states per channel
  // Whether each channel has an A of its own, or all share one.
  bool a_per_channel = true;
  bool has_b = true;             // else B is folded into C
  bool zero_order_hold = false;  // else bilinear
};

// The number of pairs, as the tensor `mixer`kernel.kernel.C tells it.
absl::StatusOr<int64_t> DiagonalSsmPairs(const std::string& mixer,
                                         const WeightLoader& loader);

// From the tensors `mixer`D and `mixer`kernel.kernel.{log_dt, inv_A_real,
// A_imag, B, C}, in float64 and rounded once.
// With dt = exp(log_dt), A = -exp(inv_A_real) + i A_imag and z = A dt:
//   bilinear         decay = (1 + z/2) / (1 - z/2)
//                    read = 2 C B dt / (1 - z/2)
//   zero-order hold  decay = exp(z)
//                    read = 2 C B (exp(z) - 1) / A
// Source: S4D, arXiv 2206.11893, section 3; HazyResearch/H3 5c4d06b.
absl::StatusOr<DiagonalSsm> LoadDiagonalSsm(const std::string& mixer,
                                            const DiagonalSsmLayout& layout,
                                            WeightLoader* loader);

}  // namespace engram

// MixerProbe: one layer's mixer computed on the host, on a copy of its state
// that was saved. What a block of the back end keeps to itself shows here: what
// the mixer answers out of its state alone, and how long it keeps what it has
// read. Products with large weights are the back end's (HostProducts), sums
// over states are in double.
//
// A mixer's output is linear in what it has read, once its gates are taken as
// they are. It falls into shares, one for each of its states, and the rest,
// which is the token's own. With σ the logistic function, Φ the normal
// distribution and ⊙ by channel, for a token t after a state h:
//   Mamba      ssm_state       W_out ((C_t exp(Δ_t A) h) ⊙ silu(z_t))
//   Mamba-2    ssm_state       the same, ⊙ w / rms(v_t) by the gated norm
//   H3         diagonal_state  W_o (q_t ⊙ Re(read decay h))
//              shift_state     W_o (q_t ⊙ (Re(read) + D) ⊙ v_t ⊙ the filter's
//                              sum over the tokens before t)
//   S4D        diagonal_state  W_o (Φ(y_t) ⊙ Re(read decay h)), y_t before GELU
//   attention  keys_values     W_o (the sum over the tokens before t of their
//                              weights times their values)
// The windows of Mamba's convolutions are no share of their own: they shape x,
// B, C and Δ of the token. Biases of the last product belong to no share.
// Source: Ali et al., arXiv 2403.01590; each sums to what the layer's block
// gives (tests/model/inspection_test.cc).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/blocks.h"
#include "model/host_products.h"

namespace engram {

// A layer's share of a state that was saved, in host memory.
struct SavedLayer {
  // The mixer's components, in the order of StateComponents(); nullptr if
  // nothing was fed: all zeros.
  std::vector<const float*> components;
  int64_t position = 0;  // tokens fed
  // Of attention: where its block of keys and values is that holds the tokens
  // from kKeyValueBlockTokens i on.
  std::vector<const float*> blocks;
};

// Tokens that a layer is fed.
struct ProbedRows {
  int64_t rows = 0;               // 1 to HostProducts::rows()
  const float* normed = nullptr;  // [rows, d_model]
  // One after the other, and the copy goes on with them; else each of them
  // comes next, and the copy stays.
  bool in_sequence = false;
};

struct ProbedOutputs {
  std::vector<float> all;  // [rows, d_model]: what the mixer adds
  // [rows, d_model] of each state, as in MixerProbe::shares().
  std::vector<std::vector<float>> shares;
  // Tokens after which what is in a value of the state has faded to 1/e, if all
  // were as the first row: 1 / -log of the decay; infinite if it does not fade.
  // Of all values, in no order; none where nothing fades.
  std::vector<float> memory_tokens;
};

class MixerProbe {
 public:
  virtual ~MixerProbe() = default;

  // The states that answer, by their names; "keys_values" of attention.
  virtual std::vector<const char*> shares() const = 0;
  // INTERNAL: the device failed.
  virtual absl::StatusOr<ProbedOutputs> Feed(const ProbedRows& rows) = 0;
};

// Each copies what it changes of `saved`, whose memory must outlive it, as must
// `products` and what the block points to. States of the block are not looked
// at. INTERNAL: the device failed.
absl::StatusOr<std::unique_ptr<MixerProbe>> ProbeMamba(
    const MambaBlockArguments& block, const SavedLayer& saved,
    HostProducts* products);
absl::StatusOr<std::unique_ptr<MixerProbe>> ProbeMamba2(
    const Mamba2BlockArguments& block, const SavedLayer& saved,
    HostProducts* products);
absl::StatusOr<std::unique_ptr<MixerProbe>> ProbeH3(
    const H3BlockArguments& block, const SavedLayer& saved,
    HostProducts* products);
absl::StatusOr<std::unique_ptr<MixerProbe>> ProbeS4d(
    const S4dBlockArguments& block, const SavedLayer& saved,
    HostProducts* products);
absl::StatusOr<std::unique_ptr<MixerProbe>> ProbeAttention(
    const AttentionBlockArguments& block, const SavedLayer& saved,
    HostProducts* products);

}  // namespace engram

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
//
// A share falls further into what each position s before t put into the state.
// Of a number that is linear in what the mixer adds, such as a logit by the
// direct way, with `a` the direction W_outᵀ g that it looks in, times the gates
// of t as above, and σ_s = Δ_1 + ... + Δ_s, position s adds
//   Mamba      the sum over channels e of a[e] x_s[e]
//              Δ_s[e] Σ_n C_t[n] B_s[n] exp(A[e,n] (σ_t[e] - σ_s[e]))
//   Mamba-2    the same, Δ, A and σ by head
//   H3, S4D    Σ_c a[c] p_s[c] Re(Σ_n read decay^(t-s)), p of S4D its input;
//              H3's shift_state Σ_c a[c] (Re(read) + D) v_t κ[t-s] k_s
//   attention  Σ over heads of a · the weight of s times its value
// Source: Ali et al., arXiv 2403.01590, equations of "hidden attention" for
// Mamba; Dao and Gu, arXiv 2405.21060, equation 3, for Mamba-2; Fu et al.,
// arXiv 2212.14052, section 3, for H3.
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

// What a token that is fed in sequence leaves in the state of its layer.
enum class StateWrite {
  kOwn,
  kNothing,  // what was there fades as ever
  kKept,     // what the row that was fed last with keeps_write would have left
};

// Tokens that a layer is fed.
struct ProbedRows {
  int64_t rows = 0;               // 1 to HostProducts::rows()
  const float* normed = nullptr;  // [rows, d_model]
  // One after the other, and the copy goes on with them; else each of them
  // comes next, and the copy stays.
  bool in_sequence = false;
  // One row that comes next: the probe keeps how this token reads the state,
  // for MixerProbe::Attribute().
  bool is_asked = false;
  // One row that comes next: the probe keeps what it would write.
  bool keeps_write = false;
  // [rows] of rows in sequence; nullptr: each its own.
  const StateWrite* writes = nullptr;
};

// What one token that was fed adds to the number that is attributed, by one
// state: lag 0 is what it adds itself, lag l what it adds by having read the
// token l before it through a convolution.
struct TokenContribution {
  std::vector<double> by_lag;
  double bias = 0;  // of the convolution
};

struct ProbedOutputs {
  std::vector<float> all;  // [rows, d_model]: what the mixer adds
  // [rows, d_model] of each state, as in MixerProbe::shares(); none of rows in
  // sequence.
  std::vector<std::vector<float>> shares;
  // Tokens after which what is in a value of the state has faded to 1/e, if all
  // were as the first row: 1 / -log of the decay; infinite if it does not fade.
  // Of all values, in no order; none where nothing fades, and of rows in
  // sequence.
  std::vector<float> memory_tokens;
  // [states, rows] once there is something to attribute, else empty.
  std::vector<std::vector<TokenContribution>> contributions;
};

class MixerProbe {
 public:
  virtual ~MixerProbe() = default;

  // The states that answer, by their names; "keys_values" of attention.
  virtual std::vector<const char*> shares() const = 0;
  // INTERNAL: the device failed.
  virtual absl::StatusOr<ProbedOutputs> Feed(const ProbedRows& rows) = 0;

  // --- What each position adds to a number that looks at the asked token.

  // Whose columns a direction has: the mixer's last product.
  virtual const LinearWeights& last_product() const = 0;
  // Goes back to the state as it was saved. Tokens that are fed in sequence
  // from now on, up to the asked one, tell their contributions; the asked one's
  // own has its direct way past the state in it. Returns what the saved state
  // adds, of each of shares(). REQUIRES: a token was asked.
  //   direction  [inputs of last_product()]
  virtual std::vector<double> Attribute(const std::vector<double>& direction,
                                        bool through_convolution) = 0;

  // --- Edits of how the layer works, of all that is fed from then on. "The
  // state" is the one that a sum over positions goes through: "ssm_state",
  // "diagonal_state" or "keys_values". Windows of convolutions, and H3's shift
  // SSM, which is one, are edited by their taps only. Attention reads what is
  // left as though nothing else had ever been in its cache: weights of the
  // softmax come to 1.

  // A tap of the convolution counts as 0; 0 is the oldest. REQUIRES: it has one
  // (Mixers::taps()).
  virtual void CutTap(int64_t tap) = 0;
  // A token reads of the state what it writes itself, and nothing else.
  virtual void ReadOwnWriteOnly() = 0;
  // What was written before is gone from the copy.
  virtual void Forget() = 0;
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

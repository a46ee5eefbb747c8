#include <algorithm>
#include <utility>

#include "model/mixer_probe.h"
#include "model/probe_math.h"

namespace engram {
namespace {

class Mamba2Probe final : public MixerProbe {
 public:
  Mamba2Probe(const Mamba2BlockArguments& block, HostProducts* products)
      : block_(block), products_(*products) {}

  absl::Status Read(const SavedLayer& saved) {
    saved_ = saved;
    ENGRAM_ASSIGN_OR_RETURN(
        convolution_,
        HostConvolution::Read(block_.convolution, block_.convolved(),
                              saved.components[0], products_));
    ENGRAM_ASSIGN_OR_RETURN(dt_bias_,
                            products_.Read(block_.dt_bias, block_.heads));
    ENGRAM_ASSIGN_OR_RETURN(a_, products_.Read(block_.a, block_.heads));
    ENGRAM_ASSIGN_OR_RETURN(d_, products_.Read(block_.d, block_.heads));
    ENGRAM_ASSIGN_OR_RETURN(
        norm_, products_.Read(block_.gated_norm, block_.d_inner()));
    Restart();
    return absl::OkStatus();
  }

  std::vector<const char*> shares() const override { return {"ssm_state"}; }

  absl::StatusOr<ProbedOutputs> Feed(const ProbedRows& rows) override {
    const int64_t d_inner = block_.d_inner(), convolved = block_.convolved();
    const int64_t width = block_.projected(), count = rows.rows;
    std::vector<float> projected(count * width);  // z | x | b | c | dt
    ENGRAM_RETURN_IF_ERROR(products_.Multiply(block_.in_proj, count,
                                              rows.normed, block_.d_model(),
                                              projected.data()));
    std::vector<float> raw(convolved), xbc(convolved);
    std::vector<float> all(count * d_inner), remembered(count * d_inner);
    std::vector<float> memory_tokens;
    std::vector<TokenContribution> contributions;
    for (int64_t row = 0; row < count; ++row) {
      const float* const z = &projected[row * width];
      const float* const dt = z + d_inner + convolved;
      convolution_.Apply(z + d_inner, raw.data());
      for (int64_t i = 0; i < convolved; ++i) {
        xbc[i] = static_cast<float>(Silu(raw[i]));
      }
      const Write write = {xbc.data(), dt};
      Scan(rows.in_sequence, write,
           Left(rows.writes == nullptr ? StateWrite::kOwn : rows.writes[row],
                write),
           &all[row * d_inner], &remembered[row * d_inner],
           row == 0 && !rows.in_sequence ? &memory_tokens : nullptr);
      if (rows.keeps_write) {
        kept_xbc_ = xbc;
        kept_dt_.assign(dt, dt + block_.heads);
      }
      const std::vector<double> gate = GateOf(z, &all[row * d_inner]);
      for (int64_t i = 0; i < d_inner; ++i) {
        for (std::vector<float>* const gated : {&all, &remembered}) {
          float& value = (*gated)[row * d_inner + i];
          value = static_cast<float>(value * gate[i]);
        }
      }
      if (rows.is_asked) KeepReading(dt, xbc.data(), gate);
      if (!rows.in_sequence) continue;
      if (!direction_.empty()) {
        contributions.push_back(
            Contribution(dt, xbc.data(), raw.data(), z + d_inner));
      }
      convolution_.Append(z + d_inner);
      ++fed_;
    }
    ENGRAM_ASSIGN_OR_RETURN(ProbedOutputs outputs,
                            Project(block_.out_proj, rows, all,
                                    {std::move(remembered)}, &products_));
    outputs.memory_tokens = std::move(memory_tokens);
    if (!contributions.empty()) outputs.contributions = {contributions};
    return outputs;
  }

  const LinearWeights& last_product() const override { return block_.out_proj; }

  std::vector<double> Attribute(const std::vector<double>& direction,
                                bool through_convolution) override {
    Restart();
    through_convolution_ = through_convolution;
    const int64_t head_dim = block_.head_dim, d_state = block_.d_state;
    direction_.resize(block_.d_inner());
    for (size_t i = 0; i < direction_.size(); ++i) {
      direction_[i] = direction[i] * reading_.gate[i];
    }
    double before = 0;
    for (int64_t head = 0; head < block_.heads; ++head) {
      const float* const c = &reading_.c[GroupOf(head) * d_state];
      double sum = 0;
      for (int64_t n = 0; n < d_state; ++n) {
        const float* const h = &state_[(head * d_state + n) * head_dim];
        for (int64_t p = 0; p < head_dim; ++p) {
          sum += direction_[head * head_dim + p] * c[n] * h[p];
        }
      }
      before += std::exp(a_[head] * reading_.passed[head]) * sum;
    }
    return {before};
  }

  void CutTap(int64_t tap) override { convolution_.CutTap(tap); }
  void ReadOwnWriteOnly() override { reads_state_ = false; }
  void Forget() override { std::fill(state_.begin(), state_.end(), 0.0f); }

 private:
  // How the asked token reads.
  struct Reading {
    std::vector<float> c;        // [groups, d_state]
    std::vector<double> gate;    // [d_inner], with the norm
    std::vector<double> passed;  // [heads]: σ_t
    int64_t tokens_before = 0;
  };

  // What makes up what a token writes.
  struct Write {
    const float* xbc = nullptr;  // [convolved]; nullptr: it writes nothing
    const float* dt = nullptr;   // [heads]
  };
  Write Left(StateWrite left, const Write& own) const {
    if (left == StateWrite::kOwn) return own;
    if (left == StateWrite::kNothing) return {};
    return {kept_xbc_.data(), kept_dt_.data()};
  }
  // B of a head's group.
  const float* InputOf(int64_t head, const float* xbc) const {
    return xbc + block_.d_inner() + GroupOf(head) * block_.d_state;
  }

  int64_t GroupOf(int64_t head) const {
    return head / (block_.heads / block_.groups);
  }
  double Step(const float* dt, int64_t head) const {
    return std::clamp<double>(SoftPlus(double{dt[head]} + dt_bias_[head]),
                              block_.dt_min, block_.dt_max);
  }

  void Restart() {
    convolution_.Restart(saved_.components[0]);
    state_ = CopyOf(saved_.components[1], block_.d_inner() * block_.d_state);
    passed_.assign(block_.heads, 0);
    fed_ = 0;
  }

  void KeepReading(const float* dt, const float* xbc,
                   const std::vector<double>& gate) {
    const float* const c = xbc + block_.d_inner() + block_.group_states();
    reading_.c.assign(c, c + block_.group_states());
    reading_.gate = gate;
    reading_.passed = passed_;
    for (int64_t head = 0; head < block_.heads; ++head) {
      reading_.passed[head] += Step(dt, head);
    }
    reading_.tokens_before = fed_;
  }

  // Of a token that was scanned and whose input is not yet in the window.
  //   raw  [convolved] before SiLU
  TokenContribution Contribution(const float* dt, const float* xbc,
                                 const float* raw, const float* input) const {
    const int64_t head_dim = block_.head_dim, d_state = block_.d_state;
    const bool is_asked = fed_ == reading_.tokens_before;
    std::vector<double> weights(block_.d_inner());  // by what was convolved
    double whole = 0;
    for (int64_t head = 0; head < block_.heads; ++head) {
      const int64_t group = GroupOf(head);
      const float* const b = xbc + block_.d_inner() + group * d_state;
      const float* const c = &reading_.c[group * d_state];
      double match = 0;
      for (int64_t n = 0; n < d_state; ++n) match += double{c[n]} * b[n];
      const double kept =
          std::exp(a_[head] * (reading_.passed[head] - passed_[head]));
      const double share =
          Step(dt, head) * match * kept + (is_asked ? d_[head] : 0);
      for (int64_t i = head * head_dim; i < (head + 1) * head_dim; ++i) {
        weights[i] = direction_[i] * share * Logistic(raw[i]);
        whole += weights[i] * raw[i];
      }
    }
    TokenContribution contribution;
    if (through_convolution_) {
      convolution_.Divide(input, 0, block_.d_inner(), weights.data(),
                          &contribution);
    } else {
      contribution.by_lag = {whole};
    }
    return contribution;
  }

  // One token, before the gate, which leaves `left` in the state if it moves
  // on.
  void Scan(bool moves_on, const Write& write, const Write& left, float* all,
            float* remembered, std::vector<float>* memory_tokens) {
    const int64_t head_dim = block_.head_dim, d_state = block_.d_state;
    std::vector<double> before(head_dim), own(head_dim);
    for (int64_t head = 0; head < block_.heads; ++head) {
      const float* const b = InputOf(head, write.xbc);
      const float* const c = b + block_.group_states();
      const float* const x = write.xbc + head * head_dim;
      const double step = Step(write.dt, head);
      const bool leaves = left.xbc != nullptr;
      const float* const left_b = leaves ? InputOf(head, left.xbc) : b;
      const float* const left_x = leaves ? left.xbc + head * head_dim : x;
      const double left_step = leaves ? Step(left.dt, head) : 0;
      if (moves_on) passed_[head] += step;
      const double decay = std::exp(step * a_[head]);
      std::fill(before.begin(), before.end(), 0);
      for (int64_t p = 0; p < head_dim; ++p) own[p] = double{d_[head]} * x[p];
      for (int64_t n = 0; n < d_state; ++n) {
        float* const h = &state_[(head * d_state + n) * head_dim];
        for (int64_t p = 0; p < head_dim; ++p) {
          const double kept = decay * h[p];
          before[p] += c[n] * kept;
          own[p] += c[n] * (b[n] * (step * x[p]));
          if (moves_on) {
            h[p] =
                static_cast<float>(kept + left_b[n] * (left_step * left_x[p]));
          }
        }
      }
      if (!reads_state_) std::fill(before.begin(), before.end(), 0);
      for (int64_t p = 0; p < head_dim; ++p) {
        remembered[head * head_dim + p] = static_cast<float>(before[p]);
        all[head * head_dim + p] = static_cast<float>(before[p] + own[p]);
      }
      if (memory_tokens != nullptr) {
        memory_tokens->push_back(MemoryTokens(-step * a_[head]));
      }
    }
  }

  // What a token's y is multiplied by: the gate, and the norm of all of it.
  std::vector<double> GateOf(const float* z, const float* y) const {
    const int64_t d_inner = block_.d_inner();
    std::vector<double> gate(d_inner);
    for (int64_t i = 0; i < d_inner; ++i) gate[i] = Silu(z[i]);
    if (norm_.empty()) return gate;
    const int64_t group = d_inner / block_.groups;
    for (int64_t first = 0; first < d_inner; first += group) {
      double squares = 0;
      for (int64_t i = first; i < first + group; ++i) {
        squares += y[i] * gate[i] * y[i] * gate[i];
      }
      const double scale = std::sqrt(squares / static_cast<double>(group) +
                                     block_.gated_norm_epsilon);
      for (int64_t i = first; i < first + group; ++i) {
        gate[i] *= norm_[i] / scale;
      }
    }
    return gate;
  }

  const Mamba2BlockArguments block_;
  HostProducts& products_;
  SavedLayer saved_;
  HostConvolution convolution_;
  std::vector<float> dt_bias_, a_, d_;
  std::vector<float> norm_;     // [d_inner] or empty
  std::vector<float> state_;    // [heads, d_state, head_dim]
  std::vector<double> passed_;  // [heads]: σ, since what was saved
  int64_t fed_ = 0;             // likewise

  bool reads_state_ = true;
  std::vector<float> kept_xbc_, kept_dt_;

  Reading reading_;
  std::vector<double> direction_;  // with the gate; empty: none is looked in
  bool through_convolution_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MixerProbe>> ProbeMamba2(
    const Mamba2BlockArguments& block, const SavedLayer& saved,
    HostProducts* products) {
  auto probe = std::make_unique<Mamba2Probe>(block, products);
  ENGRAM_RETURN_IF_ERROR(probe->Read(saved));
  return probe;
}

}  // namespace engram

#include <algorithm>
#include <utility>

#include "model/mixer_probe.h"
#include "model/probe_math.h"

namespace engram {
namespace {

class MambaProbe final : public MixerProbe {
 public:
  MambaProbe(const MambaBlockArguments& block, HostProducts* products)
      : block_(block), products_(*products) {}

  absl::Status Read(const SavedLayer& saved) {
    const int64_t d_inner = block_.d_inner;
    saved_ = saved;
    ENGRAM_ASSIGN_OR_RETURN(
        convolution_, HostConvolution::Read(block_.convolution, d_inner,
                                            saved.components[0], products_));
    ENGRAM_ASSIGN_OR_RETURN(dt_bias_, products_.Read(block_.dt_bias, d_inner));
    ENGRAM_ASSIGN_OR_RETURN(a_,
                            products_.Read(block_.a, block_.d_state * d_inner));
    ENGRAM_ASSIGN_OR_RETURN(d_, products_.Read(block_.d, d_inner));
    Restart();
    return absl::OkStatus();
  }

  std::vector<const char*> shares() const override { return {"ssm_state"}; }

  absl::StatusOr<ProbedOutputs> Feed(const ProbedRows& rows) override {
    const int64_t d_inner = block_.d_inner, count = rows.rows;
    std::vector<float> projected(count * 2 * d_inner);  // x | z
    ENGRAM_RETURN_IF_ERROR(products_.Multiply(block_.in_proj, count,
                                              rows.normed, block_.d_model(),
                                              projected.data()));
    // What each row's contribution is divided by, once there are any.
    HostConvolution convolution_before;
    if (!direction_.empty()) convolution_before = convolution_;
    std::vector<float> convolved(count * d_inner), x;
    for (int64_t row = 0; row < count; ++row) {
      const float* const input = &projected[row * 2 * d_inner];
      convolution_.Apply(input, &convolved[row * d_inner]);
      if (rows.in_sequence) convolution_.Append(input);
    }
    for (const float value : convolved) {
      x.push_back(static_cast<float>(Silu(value)));
    }
    const int64_t width = block_.scan_inputs();
    std::vector<float> inputs(count * width);  // dt | b | c
    ENGRAM_RETURN_IF_ERROR(products_.Multiply(block_.x_proj, count, x.data(),
                                              d_inner, inputs.data()));
    std::vector<float> dt(count * d_inner);
    ENGRAM_RETURN_IF_ERROR(products_.Multiply(block_.dt_proj, count,
                                              inputs.data(), width, dt.data()));
    std::vector<float> all(count * d_inner), remembered(count * d_inner);
    std::vector<float> memory_tokens;
    std::vector<TokenContribution> contributions;
    for (int64_t row = 0; row < count; ++row) {
      const float* const b = &inputs[row * width + block_.dt_rank];
      const float* const input = &projected[row * 2 * d_inner];  // x | z
      const float* const own_dt = &dt[row * d_inner];
      const Write write = {&x[row * d_inner], own_dt, b};
      Scan(rows.in_sequence, write,
           Left(rows.writes == nullptr ? StateWrite::kOwn : rows.writes[row],
                write),
           b + block_.d_state, input + d_inner, &all[row * d_inner],
           &remembered[row * d_inner],
           row == 0 && !rows.in_sequence ? &memory_tokens : nullptr);
      if (rows.keeps_write) Keep(write);
      if (rows.is_asked) {
        KeepReading(own_dt, b + block_.d_state, input + d_inner);
      }
      if (!rows.in_sequence) continue;
      if (!direction_.empty()) {
        contributions.push_back(Contribution(
            own_dt, b, &convolved[row * d_inner], input, convolution_before));
        convolution_before.Append(input);
      }
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
    direction_.resize(block_.d_inner);
    double before = 0;
    for (int64_t channel = 0; channel < block_.d_inner; ++channel) {
      direction_[channel] = direction[channel] * reading_.gate[channel];
      double sum = 0;
      for (int64_t n = 0; n < block_.d_state; ++n) {
        const int64_t at = n * block_.d_inner + channel;
        sum += reading_.c[n] * std::exp(a_[at] * reading_.passed[channel]) *
               state_[at];
      }
      before += direction_[channel] * sum;
    }
    return {before};
  }

  void CutTap(int64_t tap) override { convolution_.CutTap(tap); }
  void ReadOwnWriteOnly() override { reads_state_ = false; }
  void Forget() override { std::fill(state_.begin(), state_.end(), 0.0f); }

 private:
  // How the asked token reads.
  struct Reading {
    std::vector<float> c;        // [d_state]
    std::vector<double> gate;    // [d_inner]
    std::vector<double> passed;  // [d_inner]: σ_t
    int64_t tokens_before = 0;
  };

  // What makes up what a token writes.
  struct Write {
    const float* x = nullptr;  // [d_inner]; nullptr: it writes nothing
    const float* dt = nullptr;
    const float* b = nullptr;
  };

  void Keep(const Write& write) {
    kept_x_.assign(write.x, write.x + block_.d_inner);
    kept_dt_.assign(write.dt, write.dt + block_.d_inner);
    kept_b_.assign(write.b, write.b + block_.d_state);
  }
  Write Left(StateWrite left, const Write& own) const {
    if (left == StateWrite::kOwn) return own;
    if (left == StateWrite::kNothing) return {};
    return {kept_x_.data(), kept_dt_.data(), kept_b_.data()};
  }

  double Step(const float* dt, int64_t channel) const {
    return SoftPlus(double{dt[channel]} + dt_bias_[channel]);
  }

  void Restart() {
    convolution_.Restart(saved_.components[0]);
    state_ = CopyOf(saved_.components[1], block_.d_state * block_.d_inner);
    passed_.assign(block_.d_inner, 0);
    fed_ = 0;
  }

  void KeepReading(const float* dt, const float* c, const float* z) {
    reading_.c.assign(c, c + block_.d_state);
    reading_.gate.clear();
    reading_.passed = passed_;
    for (int64_t channel = 0; channel < block_.d_inner; ++channel) {
      reading_.gate.push_back(Silu(z[channel]));
      reading_.passed[channel] += Step(dt, channel);
    }
    reading_.tokens_before = fed_;
  }

  // Of a token that was scanned, before it is in `convolution`.
  TokenContribution Contribution(const float* dt, const float* b,
                                 const float* convolved, const float* input,
                                 const HostConvolution& convolution) const {
    const int64_t d_inner = block_.d_inner;
    const bool is_asked = fed_ == reading_.tokens_before;
    std::vector<double> weights(d_inner);  // by what was convolved, or by x
    double whole = 0;
    for (int64_t channel = 0; channel < d_inner; ++channel) {
      const double since = reading_.passed[channel] - passed_[channel];
      double sum = 0;
      for (int64_t n = 0; n < block_.d_state; ++n) {
        sum +=
            reading_.c[n] * b[n] * std::exp(a_[n * d_inner + channel] * since);
      }
      const double share =
          Step(dt, channel) * sum + (is_asked ? d_[channel] : 0);
      weights[channel] =
          direction_[channel] * share * Logistic(convolved[channel]);
      whole += weights[channel] * convolved[channel];
    }
    TokenContribution contribution;
    if (through_convolution_) {
      convolution.Divide(input, 0, d_inner, weights.data(), &contribution);
    } else {
      contribution.by_lag = {whole};
    }
    return contribution;
  }

  // One token, which leaves `left` in the state if it moves on.
  void Scan(bool moves_on, const Write& write, const Write& left,
            const float* c, const float* z, float* all, float* remembered,
            std::vector<float>* memory_tokens) {
    const int64_t d_inner = block_.d_inner;
    for (int64_t channel = 0; channel < d_inner; ++channel) {
      const double step = Step(write.dt, channel);
      const double left_step = left.x == write.x   ? step
                               : left.x == nullptr ? 0
                                                   : Step(left.dt, channel);
      if (moves_on) passed_[channel] += step;
      double before = 0, own = double{d_[channel]} * write.x[channel];
      for (int64_t n = 0; n < block_.d_state; ++n) {
        const int64_t at = n * d_inner + channel;
        const double kept = std::exp(step * a_[at]) * state_[at];
        const double written = step * write.b[n] * write.x[channel];
        before += c[n] * kept;
        own += c[n] * written;
        if (moves_on) {
          state_[at] = static_cast<float>(
              left_step == 0 ? kept
                             : kept + left_step * left.b[n] * left.x[channel]);
        }
        if (memory_tokens != nullptr) {
          memory_tokens->push_back(MemoryTokens(-step * a_[at]));
        }
      }
      if (!reads_state_) before = 0;
      const double gate = Silu(z[channel]);
      remembered[channel] = static_cast<float>(before * gate);
      all[channel] = static_cast<float>((before + own) * gate);
    }
  }

  const MambaBlockArguments block_;
  HostProducts& products_;
  SavedLayer saved_;
  HostConvolution convolution_;
  std::vector<float> dt_bias_, a_, d_;
  std::vector<float> state_;    // [d_state, d_inner]
  std::vector<double> passed_;  // [d_inner]: σ, since what was saved
  int64_t fed_ = 0;             // likewise

  bool reads_state_ = true;
  std::vector<float> kept_x_, kept_dt_, kept_b_;

  Reading reading_;
  std::vector<double> direction_;  // with the gate; empty: none is looked in
  bool through_convolution_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MixerProbe>> ProbeMamba(
    const MambaBlockArguments& block, const SavedLayer& saved,
    HostProducts* products) {
  auto probe = std::make_unique<MambaProbe>(block, products);
  ENGRAM_RETURN_IF_ERROR(probe->Read(saved));
  return probe;
}

}  // namespace engram

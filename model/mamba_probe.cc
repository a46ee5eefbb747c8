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
    ENGRAM_ASSIGN_OR_RETURN(
        convolution_, HostConvolution::Read(block_.convolution, d_inner,
                                            saved.components[0], products_));
    ENGRAM_ASSIGN_OR_RETURN(dt_bias_, products_.Read(block_.dt_bias, d_inner));
    ENGRAM_ASSIGN_OR_RETURN(a_,
                            products_.Read(block_.a, block_.d_state * d_inner));
    ENGRAM_ASSIGN_OR_RETURN(d_, products_.Read(block_.d, d_inner));
    state_ = CopyOf(saved.components[1], block_.d_state * d_inner);
    return absl::OkStatus();
  }

  std::vector<const char*> shares() const override { return {"ssm_state"}; }

  absl::StatusOr<ProbedOutputs> Feed(const ProbedRows& rows) override {
    const int64_t d_inner = block_.d_inner, count = rows.rows;
    std::vector<float> projected(count * 2 * d_inner);  // x | z
    ENGRAM_RETURN_IF_ERROR(products_.Multiply(block_.in_proj, count,
                                              rows.normed, block_.d_model(),
                                              projected.data()));
    std::vector<float> x(count * d_inner);
    for (int64_t row = 0; row < count; ++row) {
      const float* const input = &projected[row * 2 * d_inner];
      convolution_.Apply(input, &x[row * d_inner]);
      if (rows.in_sequence) convolution_.Append(input);
    }
    for (float& value : x) value = static_cast<float>(Silu(value));
    const int64_t width = block_.scan_inputs();
    std::vector<float> inputs(count * width);  // dt | b | c
    ENGRAM_RETURN_IF_ERROR(products_.Multiply(block_.x_proj, count, x.data(),
                                              d_inner, inputs.data()));
    std::vector<float> dt(count * d_inner);
    ENGRAM_RETURN_IF_ERROR(products_.Multiply(block_.dt_proj, count,
                                              inputs.data(), width, dt.data()));
    std::vector<float> all(count * d_inner), remembered(count * d_inner);
    std::vector<float> memory_tokens;
    for (int64_t row = 0; row < count; ++row) {
      const float* const b = &inputs[row * width + block_.dt_rank];
      Scan(rows.in_sequence, &x[row * d_inner], &dt[row * d_inner], b,
           b + block_.d_state, &projected[row * 2 * d_inner + d_inner],
           &all[row * d_inner], &remembered[row * d_inner],
           row == 0 ? &memory_tokens : nullptr);
    }
    ENGRAM_ASSIGN_OR_RETURN(ProbedOutputs outputs,
                            Project(block_.out_proj, count, all,
                                    {std::move(remembered)}, &products_));
    outputs.memory_tokens = std::move(memory_tokens);
    return outputs;
  }

 private:
  // One token.
  void Scan(bool moves_on, const float* x, const float* dt, const float* b,
            const float* c, const float* z, float* all, float* remembered,
            std::vector<float>* memory_tokens) {
    const int64_t d_inner = block_.d_inner;
    for (int64_t channel = 0; channel < d_inner; ++channel) {
      const double step = SoftPlus(double{dt[channel]} + dt_bias_[channel]);
      double before = 0, own = double{d_[channel]} * x[channel];
      for (int64_t n = 0; n < block_.d_state; ++n) {
        const int64_t at = n * d_inner + channel;
        const double kept = std::exp(step * a_[at]) * state_[at];
        const double written = step * b[n] * x[channel];
        before += c[n] * kept;
        own += c[n] * written;
        if (moves_on) state_[at] = static_cast<float>(kept + written);
        if (memory_tokens != nullptr) {
          memory_tokens->push_back(MemoryTokens(-step * a_[at]));
        }
      }
      const double gate = Silu(z[channel]);
      remembered[channel] = static_cast<float>(before * gate);
      all[channel] = static_cast<float>((before + own) * gate);
    }
  }

  const MambaBlockArguments block_;
  HostProducts& products_;
  HostConvolution convolution_;
  std::vector<float> dt_bias_, a_, d_;
  std::vector<float> state_;  // [d_state, d_inner]
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

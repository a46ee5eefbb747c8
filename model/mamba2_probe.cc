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
    state_ = CopyOf(saved.components[1], block_.d_inner() * block_.d_state);
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
    std::vector<float> xbc(convolved);
    std::vector<float> all(count * d_inner), remembered(count * d_inner);
    std::vector<float> memory_tokens;
    for (int64_t row = 0; row < count; ++row) {
      const float* const z = &projected[row * width];
      convolution_.Apply(z + d_inner, xbc.data());
      if (rows.in_sequence) convolution_.Append(z + d_inner);
      for (float& value : xbc) value = static_cast<float>(Silu(value));
      Scan(rows.in_sequence, xbc.data(), z + d_inner + convolved,
           &all[row * d_inner], &remembered[row * d_inner],
           row == 0 ? &memory_tokens : nullptr);
      Gate(z, &all[row * d_inner], &remembered[row * d_inner]);
    }
    ENGRAM_ASSIGN_OR_RETURN(ProbedOutputs outputs,
                            Project(block_.out_proj, count, all,
                                    {std::move(remembered)}, &products_));
    outputs.memory_tokens = std::move(memory_tokens);
    return outputs;
  }

 private:
  // One token, before the gate.
  void Scan(bool moves_on, const float* xbc, const float* dt, float* all,
            float* remembered, std::vector<float>* memory_tokens) {
    const int64_t head_dim = block_.head_dim, d_state = block_.d_state;
    std::vector<double> before(head_dim), own(head_dim);
    for (int64_t head = 0; head < block_.heads; ++head) {
      const int64_t group = head / (block_.heads / block_.groups);
      const float* const b = xbc + block_.d_inner() + group * d_state;
      const float* const c = b + block_.group_states();
      const float* const x = xbc + head * head_dim;
      const double step =
          std::clamp<double>(SoftPlus(double{dt[head]} + dt_bias_[head]),
                             block_.dt_min, block_.dt_max);
      const double decay = std::exp(step * a_[head]);
      std::fill(before.begin(), before.end(), 0);
      for (int64_t p = 0; p < head_dim; ++p) own[p] = double{d_[head]} * x[p];
      for (int64_t n = 0; n < d_state; ++n) {
        float* const h = &state_[(head * d_state + n) * head_dim];
        for (int64_t p = 0; p < head_dim; ++p) {
          const double kept = decay * h[p];
          const double written = b[n] * (step * x[p]);
          before[p] += c[n] * kept;
          own[p] += c[n] * written;
          if (moves_on) h[p] = static_cast<float>(kept + written);
        }
      }
      for (int64_t p = 0; p < head_dim; ++p) {
        remembered[head * head_dim + p] = static_cast<float>(before[p]);
        all[head * head_dim + p] = static_cast<float>(before[p] + own[p]);
      }
      if (memory_tokens != nullptr) {
        memory_tokens->push_back(MemoryTokens(-step * a_[head]));
      }
    }
  }

  // Both by the gate, and by the norm of all.
  void Gate(const float* z, float* all, float* remembered) const {
    const int64_t d_inner = block_.d_inner();
    for (int64_t i = 0; i < d_inner; ++i) {
      const double gate = Silu(z[i]);
      all[i] = static_cast<float>(all[i] * gate);
      remembered[i] = static_cast<float>(remembered[i] * gate);
    }
    if (norm_.empty()) return;
    const int64_t group = d_inner / block_.groups;
    for (int64_t first = 0; first < d_inner; first += group) {
      double squares = 0;
      for (int64_t i = first; i < first + group; ++i) {
        squares += double{all[i]} * all[i];
      }
      const double scale = std::sqrt(squares / static_cast<double>(group) +
                                     block_.gated_norm_epsilon);
      for (int64_t i = first; i < first + group; ++i) {
        all[i] = static_cast<float>(all[i] / scale * norm_[i]);
        remembered[i] = static_cast<float>(remembered[i] / scale * norm_[i]);
      }
    }
  }

  const Mamba2BlockArguments block_;
  HostProducts& products_;
  HostConvolution convolution_;
  std::vector<float> dt_bias_, a_, d_;
  std::vector<float> norm_;   // [d_inner] or empty
  std::vector<float> state_;  // [heads, d_state, head_dim]
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

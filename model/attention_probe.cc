#include <algorithm>
#include <limits>
#include <utility>

#include "model/mixer_probe.h"
#include "model/probe_math.h"

namespace engram {
namespace {

class AttentionProbe final : public MixerProbe {
 public:
  AttentionProbe(const AttentionBlockArguments& block, HostProducts* products)
      : block_(block), products_(*products) {}

  absl::Status Read(const SavedLayer& saved) {
    saved_ = saved;
    if (block_.convolution.taps > 0) {
      ENGRAM_ASSIGN_OR_RETURN(
          convolution_,
          HostConvolution::Read(block_.convolution, block_.qkv_width(),
                                saved.components[0], products_));
    }
    // They are pairs of floats to what copies them.
    ENGRAM_ASSIGN_OR_RETURN(
        const std::vector<float> bits,
        products_.Read(reinterpret_cast<const float*>(block_.frequencies),
                       block_.rotary_dim / 2 * 2));
    frequencies_.resize(block_.rotary_dim / 2);
    std::copy_n(reinterpret_cast<const char*>(bits.data()),
                frequencies_.size() * sizeof(double),
                reinterpret_cast<char*>(frequencies_.data()));
    return absl::OkStatus();
  }

  std::vector<const char*> shares() const override { return {"keys_values"}; }

  absl::StatusOr<ProbedOutputs> Feed(const ProbedRows& rows) override {
    const int64_t width = block_.qkv_width(), q_width = block_.q_width();
    std::vector<float> qkv(rows.rows * width);
    ENGRAM_RETURN_IF_ERROR(products_.Multiply(
        block_.qkv, rows.rows, rows.normed, block_.d_model(), qkv.data()));
    std::vector<float> all(rows.rows * q_width), before(rows.rows * q_width);
    std::vector<float> convolved(width);
    std::vector<TokenContribution> contributions;
    if (rows.is_asked) reading_ = {std::vector<Softmax>(block_.heads), {}};
    for (int64_t row = 0; row < rows.rows; ++row) {
      float* const own = convolved.data();
      const float* const input = &qkv[row * width];
      if (block_.convolution.taps > 0) {
        convolution_.Apply(input, own);
      } else {
        std::copy_n(input, width, own);
      }
      for (int64_t head = 0; head < block_.heads + block_.kv_heads; ++head) {
        Rotate(own + head * block_.head_dim);
      }
      for (int64_t head = 0; head < block_.heads; ++head) {
        const int64_t at = row * q_width + head * block_.head_dim;
        const Softmax softmax = Attend(own, head, &all[at], &before[at]);
        if (rows.is_asked) reading_.softmax[head] = softmax;
      }
      if (rows.is_asked) reading_.q.assign(own, own + q_width);
      if (rows.keeps_write) kept_.assign(own + q_width, own + width);
      if (!rows.in_sequence) continue;
      if (!direction_.empty()) {
        contributions.push_back(Contribution(input, own));
      }
      if (block_.convolution.taps > 0) convolution_.Append(input);
      Leave(rows.writes == nullptr ? StateWrite::kOwn : rows.writes[row],
            own + q_width);
    }
    ENGRAM_ASSIGN_OR_RETURN(
        ProbedOutputs outputs,
        Project(block_.output, rows, all, {std::move(before)}, &products_));
    if (!contributions.empty()) outputs.contributions = {contributions};
    return outputs;
  }

  const LinearWeights& last_product() const override { return block_.output; }

  std::vector<double> Attribute(const std::vector<double>& direction,
                                bool through_convolution) override {
    if (block_.convolution.taps > 0) {
      convolution_.Restart(saved_.components[0]);
    }
    keys_values_.clear();
    is_there_.clear();
    through_convolution_ = through_convolution && block_.convolution.taps > 0;
    direction_ = direction;
    double before = 0;
    for (int64_t token = 0; token < saved_.position; ++token) {
      for (int64_t kv_head = 0; kv_head < block_.kv_heads; ++kv_head) {
        const std::vector<double> weights =
            ValueWeights(kv_head, Key(token, kv_head));
        const Vector value = Value(token, kv_head);
        for (int64_t i = 0; i < block_.head_dim; ++i) {
          before += weights[i] * value[i];
        }
      }
    }
    return {before};
  }

  void CutTap(int64_t tap) override { convolution_.CutTap(tap); }
  void ReadOwnWriteOnly() override { reads_state_ = false; }
  void Forget() override {
    has_saved_ = false;
    std::fill(is_there_.begin(), is_there_.end(), false);
  }

 private:
  // What the asked token's scores become weights by, in one head.
  struct Softmax {
    double largest = 0;
    double sum = 0;
  };
  // How the asked token reads.
  struct Reading {
    std::vector<Softmax> softmax;  // [heads]
    std::vector<float> q;          // [q_width], rotated
  };

  // Tokens before the next one.
  int64_t tokens() const {
    return saved_.position +
           static_cast<int64_t>(keys_values_.size()) / (2 * block_.kv_width());
  }

  // What a token leaves of itself; its place is taken in any case.
  void Leave(StateWrite write, const float* own) {
    const float* const left = write == StateWrite::kKept ? kept_.data() : own;
    keys_values_.insert(keys_values_.end(), left, left + 2 * block_.kv_width());
    is_there_.push_back(write != StateWrite::kNothing);
  }
  // Whether the tokens after it read it.
  bool IsRead(int64_t token) const {
    if (!reads_state_) return false;
    return token < saved_.position ? has_saved_
                                   : is_there_[token - saved_.position];
  }

  void Rotate(float* head) const {
    const auto half = static_cast<int64_t>(frequencies_.size());
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(tokens()) * frequencies_[i];
      const double one = head[i], other = head[i + half];
      head[i] =
          static_cast<float>(one * std::cos(angle) - other * std::sin(angle));
      head[i + half] =
          static_cast<float>(other * std::cos(angle) + one * std::sin(angle));
    }
  }

  // A head's key or value of a token that was fed, and how far its dimensions
  // are apart.
  struct Vector {
    const float* data = nullptr;
    int64_t stride = 1;
    float operator[](int64_t i) const { return data[i * stride]; }
  };
  Vector Key(int64_t token, int64_t kv_head) const {
    if (token >= saved_.position) return {Fed(token, kv_head), 1};
    const int64_t place = token % kKeyValueBlockTokens;
    return {saved_.blocks[token / kKeyValueBlockTokens] +
                kv_head * block_.head_dim * kKeyValueBlockTokens + place,
            kKeyValueBlockTokens};
  }
  Vector Value(int64_t token, int64_t kv_head) const {
    if (token >= saved_.position) {
      return {Fed(token, kv_head) + block_.kv_width(), 1};
    }
    const int64_t place = token % kKeyValueBlockTokens;
    return {saved_.blocks[token / kKeyValueBlockTokens] +
                block_.kv_width() * kKeyValueBlockTokens +
                (kv_head * kKeyValueBlockTokens + place) * block_.head_dim,
            1};
  }
  const float* Fed(int64_t token, int64_t kv_head) const {
    return &keys_values_[(token - saved_.position) * 2 * block_.kv_width() +
                         kv_head * block_.head_dim];
  }

  int64_t group() const { return block_.heads / block_.kv_heads; }

  double Score(const float* q, const Vector& key) const {
    double score = 0;
    for (int64_t i = 0; i < block_.head_dim; ++i)
      score += double{q[i]} * key[i];
    return score * block_.scale;
  }

  // What the asked token multiplies each dimension of a value by, over all
  // heads that read it, on the way to what is looked at.
  std::vector<double> ValueWeights(int64_t kv_head, const Vector& key) const {
    const int64_t head_dim = block_.head_dim;
    std::vector<double> weights(head_dim);
    for (int64_t head = kv_head * group(); head < (kv_head + 1) * group();
         ++head) {
      const Softmax& softmax = reading_.softmax[head];
      const double weight =
          std::exp(Score(&reading_.q[head * head_dim], key) - softmax.largest) /
          softmax.sum;
      for (int64_t i = 0; i < head_dim; ++i) {
        weights[i] += direction_[head * head_dim + i] * weight;
      }
    }
    return weights;
  }

  // Of a token whose input is not yet in the window.
  TokenContribution Contribution(const float* input, const float* qkv) const {
    const float* const keys = qkv + block_.q_width();
    const float* const values = keys + block_.kv_width();
    std::vector<double> weights;
    for (int64_t kv_head = 0; kv_head < block_.kv_heads; ++kv_head) {
      const std::vector<double> own =
          ValueWeights(kv_head, {keys + kv_head * block_.head_dim, 1});
      weights.insert(weights.end(), own.begin(), own.end());
    }
    TokenContribution contribution;
    if (through_convolution_) {
      convolution_.Divide(input, values - qkv, block_.kv_width(),
                          weights.data(), &contribution);
      return contribution;
    }
    contribution.by_lag = {0};
    for (size_t i = 0; i < weights.size(); ++i) {
      contribution.by_lag[0] += weights[i] * values[i];
    }
    return contribution;
  }

  Softmax Attend(const float* qkv, int64_t head, float* all,
                 float* before) const {
    const int64_t head_dim = block_.head_dim, count = tokens();
    const int64_t kv_head = head / group();
    const float* const q = qkv + head * head_dim;
    const float* const own_key = qkv + block_.q_width() + kv_head * head_dim;
    const float* const own_value = own_key + block_.kv_width();
    std::vector<double> weights(count + 1);
    for (int64_t token = 0; token < count; ++token) {
      weights[token] = IsRead(token) ? Score(q, Key(token, kv_head))
                                     : -std::numeric_limits<double>::infinity();
    }
    weights[count] = Score(q, {own_key, 1});
    const double largest = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& weight : weights) {
      weight = std::exp(weight - largest);
      sum += weight;
    }
    std::vector<double> values(head_dim);
    for (int64_t token = 0; token < count; ++token) {
      const Vector value = Value(token, kv_head);
      for (int64_t i = 0; i < head_dim; ++i) {
        values[i] += weights[token] * value[i];
      }
    }
    for (int64_t i = 0; i < head_dim; ++i) {
      before[i] = static_cast<float>(values[i] / sum);
      all[i] =
          static_cast<float>((values[i] + weights[count] * own_value[i]) / sum);
    }
    return {largest, sum};
  }

  const AttentionBlockArguments block_;
  HostProducts& products_;
  SavedLayer saved_;
  HostConvolution convolution_;
  std::vector<double> frequencies_;
  // Keys (rotated) and values of what was fed since: [tokens, 2, kv_width].
  std::vector<float> keys_values_;
  std::vector<bool> is_there_;  // of each of these: it was not edited away

  bool reads_state_ = true;
  bool has_saved_ = true;    // what was saved is still read
  std::vector<float> kept_;  // [2, kv_width]

  Reading reading_;
  std::vector<double> direction_;  // [q_width]; empty: none is looked in
  bool through_convolution_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MixerProbe>> ProbeAttention(
    const AttentionBlockArguments& block, const SavedLayer& saved,
    HostProducts* products) {
  auto probe = std::make_unique<AttentionProbe>(block, products);
  ENGRAM_RETURN_IF_ERROR(probe->Read(saved));
  return probe;
}

}  // namespace engram

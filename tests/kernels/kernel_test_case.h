// What the tests of a back end share: random inputs, memory of the back end,
// comparison, and ragged batches of the recurrent operations.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/status.h"
#include "tests/support/reference_ops.h"

namespace engram {

using Floats = std::vector<float>;

// Uniform in [low, high), the same on every machine.
inline Floats RandomFloats(uint32_t seed, int64_t count, float low = -1.0f,
                           float high = 1.0f) {
  std::mt19937 generator(seed);
  Floats values(count);
  for (float& value : values) {
    value =
        low + (high - low) * static_cast<float>(generator() >> 8) * 0x1p-24f;
  }
  return values;
}

inline reference::Values Widened(const Floats& values) {
  return reference::Values(values.begin(), values.end());
}

// Rows [first, first + count) of `width` values each.
template <class Vector>
Vector Slice(const Vector& values, int64_t first, int64_t count,
             int64_t width) {
  return Vector(values.begin() + first * width,
                values.begin() + (first + count) * width);
}

// `values` [tokens, width] as the columns from kMargin on of a wider matrix, as
// the model's activations are; the other columns hold NaN.
inline constexpr int64_t kMargin = 3;
inline int64_t WideStride(int64_t width) { return width + kMargin + 2; }
inline Floats ToWide(const Floats& values, int64_t width) {
  const int64_t stride = WideStride(width);
  const int64_t tokens = static_cast<int64_t>(values.size()) / width;
  Floats wide(tokens * stride, std::numeric_limits<float>::quiet_NaN());
  for (int64_t t = 0; t < tokens; ++t) {
    std::copy_n(values.data() + t * width, width,
                wide.data() + t * stride + kMargin);
  }
  return wide;
}
// The inverse; expects that the other columns still hold NaN.
inline Floats FromWide(const Floats& wide, int64_t width) {
  const int64_t stride = WideStride(width);
  Floats values;
  for (size_t i = 0; i < wide.size(); ++i) {
    const int64_t column = static_cast<int64_t>(i) % stride - kMargin;
    if (column >= 0 && column < width) {
      values.push_back(wide[i]);
    } else {
      EXPECT_TRUE(std::isnan(wide[i])) << "written between the rows";
    }
  }
  return values;
}

// |actual - expected| <= scale * (1e-5 + 1e-5 |expected|) for every element.
inline void ExpectClose(const Floats& actual, const reference::Values& expected,
                        double scale = 1.0) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double bound = scale * (1e-5 + 1e-5 * std::abs(expected[i]));
    ASSERT_NEAR(actual[i], expected[i], bound) << "at " << i;
  }
}

// Equality of bits, which == on NaN and signed zeros is not.
inline void ExpectSameBits(const Floats& actual, const Floats& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  if (actual.empty()) return;
  if (std::memcmp(actual.data(), expected.data(),
                  actual.size() * sizeof(float)) == 0) {
    return;
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::memcmp(&actual[i], &expected[i], sizeof(float)), 0)
        << "at " << i << ": " << actual[i] << " and " << expected[i];
  }
}

// Floats in memory of a back end, exactly as many as asked for.
class DeviceFloats {
 public:
  DeviceFloats(Backend& backend, const Floats& values)
      : backend_(backend), size_(values.size()) {
    auto buffer = backend.Allocate(size_ * sizeof(float));
    ENGRAM_CHECK_OK(buffer.status());
    buffer_ = *std::move(buffer);
    ENGRAM_CHECK_OK(backend.CopyFromHost(buffer_->data(), values.data(),
                                         size_ * sizeof(float)));
  }

  float* data() { return buffer_->floats(); }

  Floats ToHost() const {
    Floats values(size_);
    ENGRAM_CHECK_OK(backend_.CopyToHost(values.data(), buffer_->data(),
                                        size_ * sizeof(float)));
    return values;
  }

 private:
  Backend& backend_;
  const size_t size_;
  std::unique_ptr<Buffer> buffer_;
};

// One layer's shares of `floats` each of all slots or blocks, as a pool has
// them: what lies between them is another layer's, here NaN.
class DeviceShares {
 public:
  DeviceShares(Backend& backend, const Floats& values, int64_t floats)
      : floats_(floats),
        device_(backend, floats == 0 ? Floats() : ToWide(values, floats)) {}

  LayerShares shares() {
    return {device_.data() + (floats_ == 0 ? 0 : kMargin), WideStride(floats_)};
  }
  // Expects that nothing was written between them.
  Floats ToHost() const {
    return floats_ == 0 ? Floats() : FromWide(device_.ToHost(), floats_);
  }

 private:
  const int64_t floats_;
  DeviceFloats device_;
};

inline std::unique_ptr<PackedWeight> PackFloats(
    Backend& backend, const Floats& weight, int64_t outputs, int64_t inputs,
    WeightFormat format = WeightFormat::kFloat32) {
  const Tensor tensor{DataType::kFloat32, {outputs, inputs}, weight.data()};
  auto packed = backend.Pack(tensor, format);
  ENGRAM_CHECK_OK(packed.status());
  return *std::move(packed);
}

// The tokens from `offset` on, of the sequence whose state lies in `slot`.
struct SlotRow {
  int slot = 0;
  int offset = 0;  // the sum of the earlier rows' tokens
  int tokens = 0;
  int slot_out = -1;  // -1: the state stays in `slot`
  int64_t position = 0;

  int out() const { return slot_out < 0 ? slot : slot_out; }
};
using SlotRows = absl::Span<const SlotRow>;

inline const StepRows& Prepare(
    Backend& backend, SlotRows rows,
    absl::Span<const absl::Span<const int32_t>> blocks = {},
    absl::Span<const int32_t> ids = {}) {
  std::vector<Row> prepared;
  for (const SlotRow& row : rows) {
    prepared.push_back({row.slot, row.out(), row.tokens, row.position});
  }
  const StepRows& step = backend.PrepareStep(prepared, blocks, ids);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(step.rows()[i].offset, rows[i].offset);
  }
  return step;
}
// A step of one row with these tokens.
inline const StepRows& PrepareIds(Backend& backend,
                                  absl::Span<const int32_t> ids) {
  const SlotRow row = {0, 0, static_cast<int>(ids.size())};
  return Prepare(backend, {row}, {}, ids);
}

// Contiguous product through the back end.
struct MatMulCase {
  int64_t outputs = 0;
  int64_t inputs = 0;
  Floats weight;  // [outputs, inputs]
  Floats bias;    // [outputs] or empty
  Activation activation = Activation::kNone;

  MatMulCase(int64_t outputs, int64_t inputs)
      : outputs(outputs),
        inputs(inputs),
        weight(RandomFloats(1, outputs * inputs)) {}

  Floats Run(Backend& backend, const Floats& x, Floats y = {},
             bool accumulate = false) const {
    const int64_t tokens = static_cast<int64_t>(x.size()) / inputs;
    y.resize(tokens * outputs);
    const auto packed = PackFloats(backend, weight, outputs, inputs);
    DeviceFloats device_x(backend, x);
    DeviceFloats device_y(backend, y);
    DeviceFloats device_bias(backend, bias);
    MatMulOptions options;
    options.bias = bias.empty() ? nullptr : device_bias.data();
    options.activation = activation;
    options.accumulate = accumulate;
    backend.MatMul(*packed, tokens, {device_x.data(), inputs}, options,
                   {device_y.data(), outputs});
    return device_y.ToHost();
  }

  reference::Values Expected(const Floats& x) const {
    return reference::MatMul(outputs, inputs, Widened(weight), Widened(x),
                             Widened(bias), activation);
  }
};

// Parameters of one convolution.
struct ConvCase {
  int64_t channels = 0;
  int64_t d_conv = 0;
  Floats weight;  // [d_conv, channels]
  Floats bias;    // [channels] or empty
  Activation activation = Activation::kSilu;

  ConvCase(int64_t channels, int64_t d_conv)
      : channels(channels),
        d_conv(d_conv),
        weight(RandomFloats(2, d_conv * channels)),
        bias(RandomFloats(3, channels)) {}

  int64_t WindowFloats() const { return (d_conv - 1) * channels; }

  // Updates `states` [slots, d_conv-1, channels].
  Floats Run(Backend& backend, SlotRows rows, const Floats& x,
             Floats& states) const {
    const int64_t stride = WideStride(channels);
    DeviceFloats device_x(backend, ToWide(x, channels));
    DeviceFloats device_weight(backend, weight);
    DeviceFloats device_bias(backend, bias);
    DeviceShares device_states(backend, states, WindowFloats());
    DeviceFloats y(backend, ToWide(Floats(x.size()), channels));
    CausalConv1dArguments arguments;
    arguments.channels = channels;
    arguments.d_conv = d_conv;
    arguments.x = {device_x.data() + kMargin, stride};
    arguments.weight = device_weight.data();
    arguments.bias = bias.empty() ? nullptr : device_bias.data();
    arguments.activation = activation;
    arguments.conv_state = device_states.shares();
    arguments.y = {y.data() + kMargin, stride};
    backend.CausalConv1d(Prepare(backend, rows), arguments);
    states = device_states.ToHost();
    return FromWide(y.ToHost(), channels);
  }

  reference::Values Expected(const Floats& x, reference::Values& window) const {
    return reference::CausalConv1d(channels, d_conv, Widened(x),
                                   Widened(weight), Widened(bias), activation,
                                   window);
  }
};

// Parameters of one scan, and the inputs of `tokens` tokens.
struct ScanCase {
  int64_t d_inner = 0;
  int64_t d_state = 0;
  int64_t tokens = 0;
  Floats x, dt, z, b, c, dt_bias, a, d;

  ScanCase(int64_t d_inner, int64_t d_state, int64_t tokens)
      : d_inner(d_inner),
        d_state(d_state),
        tokens(tokens),
        x(RandomFloats(10, tokens * d_inner)),
        dt(RandomFloats(11, tokens * d_inner, -3.0f, 1.0f)),
        z(RandomFloats(12, tokens * d_inner, -3.0f, 3.0f)),
        b(RandomFloats(13, tokens * d_state)),
        c(RandomFloats(14, tokens * d_state)),
        dt_bias(RandomFloats(15, d_inner)),
        a(RandomFloats(16, d_state * d_inner, -8.0f, -0.01f)),
        d(RandomFloats(17, d_inner)) {}

  int64_t StateFloats() const { return d_state * d_inner; }

  // The same parameters with the inputs of [first, first + count) only.
  ScanCase Part(int64_t first, int64_t count) const {
    ScanCase part = *this;
    part.tokens = count;
    part.x = Slice(x, first, count, d_inner);
    part.dt = Slice(dt, first, count, d_inner);
    part.z = Slice(z, first, count, d_inner);
    part.b = Slice(b, first, count, d_state);
    part.c = Slice(c, first, count, d_state);
    return part;
  }

  // Updates `states` [slots, d_state, d_inner]. With `in_place`, y is x.
  Floats Run(Backend& backend, SlotRows rows, Floats& states,
             bool in_place = false) const {
    const int64_t stride = WideStride(d_inner);
    const int64_t state_stride = WideStride(d_state);
    DeviceFloats device_x(backend, ToWide(x, d_inner));
    DeviceFloats device_dt(backend, ToWide(dt, d_inner));
    DeviceFloats device_z(backend, ToWide(z, d_inner));
    DeviceFloats device_b(backend, ToWide(b, d_state));
    DeviceFloats device_c(backend, ToWide(c, d_state));
    DeviceFloats device_dt_bias(backend, dt_bias);
    DeviceFloats device_a(backend, a), device_d(backend, d);
    DeviceShares device_states(backend, states, StateFloats());
    DeviceFloats device_y(backend, ToWide(Floats(x.size()), d_inner));
    DeviceFloats& y = in_place ? device_x : device_y;
    SelectiveScanArguments arguments;
    arguments.d_inner = d_inner;
    arguments.d_state = d_state;
    arguments.x = {device_x.data() + kMargin, stride};
    arguments.dt = {device_dt.data() + kMargin, stride};
    arguments.b = {device_b.data() + kMargin, state_stride};
    arguments.c = {device_c.data() + kMargin, state_stride};
    arguments.z = {device_z.data() + kMargin, stride};
    arguments.dt_bias = device_dt_bias.data();
    arguments.a = device_a.data();
    arguments.d = device_d.data();
    arguments.ssm_state = device_states.shares();
    arguments.y = {y.data() + kMargin, stride};
    backend.SelectiveScan(Prepare(backend, rows), arguments);
    states = device_states.ToHost();
    return FromWide(y.ToHost(), d_inner);
  }

  reference::Values Expected(reference::Values& state) const {
    const reference::ScanInputs inputs{
        d_inner,    d_state,    Widened(x),       Widened(dt), Widened(z),
        Widened(b), Widened(c), Widened(dt_bias), Widened(d),  Widened(a)};
    return reference::SelectiveScan(inputs, state);
  }
};

// Parameters of one of Mamba-2's scans, and the inputs of `tokens` tokens.
struct SsdScanCase {
  int64_t heads = 0;
  int64_t groups = 0;
  int64_t head_dim = 0;
  int64_t d_state = 0;
  int64_t tokens = 0;
  Floats x, dt, b, c, dt_bias, a, d;
  float dt_min = 0.0f;
  float dt_max = std::numeric_limits<float>::infinity();
  // The slots lie one behind the other, from an aligned address on.
  bool dense_states = false;

  SsdScanCase(int64_t heads, int64_t groups, int64_t head_dim, int64_t d_state,
              int64_t tokens)
      : heads(heads),
        groups(groups),
        head_dim(head_dim),
        d_state(d_state),
        tokens(tokens),
        x(RandomFloats(20, tokens * heads * head_dim)),
        dt(RandomFloats(21, tokens * heads, -3.0f, 1.0f)),
        b(RandomFloats(22, tokens * groups * d_state)),
        c(RandomFloats(23, tokens * groups * d_state)),
        dt_bias(RandomFloats(24, heads)),
        a(RandomFloats(25, heads, -8.0f, -0.01f)),
        d(RandomFloats(26, heads)) {}

  int64_t d_inner() const { return heads * head_dim; }
  int64_t StateFloats() const { return d_inner() * d_state; }

  // The same parameters with the inputs of [first, first + count) only.
  SsdScanCase Part(int64_t first, int64_t count) const {
    SsdScanCase part = *this;
    part.tokens = count;
    part.x = Slice(x, first, count, d_inner());
    part.dt = Slice(dt, first, count, heads);
    part.b = Slice(b, first, count, groups * d_state);
    part.c = Slice(c, first, count, groups * d_state);
    return part;
  }

  // Updates `states` [slots, heads, d_state, head_dim]. With `in_place`, y is
  // x.
  Floats Run(Backend& backend, SlotRows rows, Floats& states,
             bool in_place = false) const {
    const int64_t stride = WideStride(d_inner());
    const int64_t group_stride = WideStride(groups * d_state);
    DeviceFloats device_x(backend, ToWide(x, d_inner()));
    DeviceFloats device_dt(backend, ToWide(dt, heads));
    DeviceFloats device_b(backend, ToWide(b, groups * d_state));
    DeviceFloats device_c(backend, ToWide(c, groups * d_state));
    DeviceFloats device_dt_bias(backend, dt_bias);
    DeviceFloats device_a(backend, a), device_d(backend, d);
    DeviceShares device_states(backend, states, StateFloats());
    DeviceFloats device_dense_states(backend, states);
    DeviceFloats device_y(backend, ToWide(Floats(x.size()), d_inner()));
    DeviceFloats& y = in_place ? device_x : device_y;
    SsdScanArguments arguments;
    arguments.heads = heads;
    arguments.groups = groups;
    arguments.head_dim = head_dim;
    arguments.d_state = d_state;
    arguments.x = {device_x.data() + kMargin, stride};
    arguments.dt = {device_dt.data() + kMargin, WideStride(heads)};
    arguments.b = {device_b.data() + kMargin, group_stride};
    arguments.c = {device_c.data() + kMargin, group_stride};
    arguments.dt_bias = device_dt_bias.data();
    arguments.a = device_a.data();
    arguments.d = device_d.data();
    arguments.dt_min = dt_min;
    arguments.dt_max = dt_max;
    arguments.ssm_state = device_states.shares();
    if (dense_states) {
      arguments.ssm_state = {device_dense_states.data(), StateFloats()};
    }
    arguments.y = {y.data() + kMargin, stride};
    DeviceFloats room(backend, Floats(tokens * SsdRoomFloats(groups, d_state)));
    arguments.room = room.data();
    backend.SsdScan(Prepare(backend, rows), arguments);
    states =
        dense_states ? device_dense_states.ToHost() : device_states.ToHost();
    return FromWide(y.ToHost(), d_inner());
  }

  reference::Values Expected(reference::Values& state) const {
    reference::SsdScanInputs inputs;
    inputs.heads = heads;
    inputs.groups = groups;
    inputs.head_dim = head_dim;
    inputs.d_state = d_state;
    inputs.dt_min = dt_min;
    inputs.dt_max = dt_max;
    inputs.x = Widened(x);
    inputs.dt = Widened(dt);
    inputs.b = Widened(b);
    inputs.c = Widened(c);
    inputs.dt_bias = Widened(dt_bias);
    inputs.a = Widened(a);
    inputs.d = Widened(d);
    return reference::SsdScan(inputs, state);
  }
};

// One gated norm, and the inputs of `tokens` tokens.
struct GatedNormCase {
  int64_t d_inner = 0;
  int64_t groups = 0;
  int64_t tokens = 0;
  Floats y, z, weight;  // no weight: no norm

  GatedNormCase(int64_t d_inner, int64_t groups, int64_t tokens)
      : d_inner(d_inner),
        groups(groups),
        tokens(tokens),
        y(RandomFloats(30, tokens * d_inner, -3.0f, 5.0f)),
        z(RandomFloats(31, tokens * d_inner, -3.0f, 3.0f)),
        weight(RandomFloats(32, d_inner)) {}

  Floats Run(Backend& backend, bool in_place = false) const {
    const int64_t stride = WideStride(d_inner);
    DeviceFloats device_y(backend, ToWide(y, d_inner));
    DeviceFloats device_z(backend, ToWide(z, d_inner));
    DeviceFloats device_weight(backend, weight);
    DeviceFloats device_normed(backend, ToWide(Floats(y.size()), d_inner));
    DeviceFloats& normed = in_place ? device_y : device_normed;
    GatedNormArguments arguments;
    arguments.tokens = tokens;
    arguments.d_inner = d_inner;
    arguments.groups = groups;
    arguments.y = {device_y.data() + kMargin, stride};
    arguments.z = {device_z.data() + kMargin, stride};
    arguments.weight = weight.empty() ? nullptr : device_weight.data();
    arguments.normed = {normed.data() + kMargin, stride};
    backend.GatedNorm(arguments);
    return FromWide(normed.ToHost(), d_inner);
  }

  reference::Values Expected() const {
    return reference::GatedNorm(d_inner, groups, 1e-5, Widened(y), Widened(z),
                                Widened(weight));
  }
};

// Parameters of one shift SSM, and the inputs of `tokens` tokens.
struct ShiftMultiplyCase {
  int64_t channels = 0;
  int64_t taps = 0;
  int64_t tokens = 0;
  Floats k, v, filter;

  ShiftMultiplyCase(int64_t channels, int64_t taps, int64_t tokens)
      : channels(channels),
        taps(taps),
        tokens(tokens),
        k(RandomFloats(40, tokens * channels)),
        v(RandomFloats(41, tokens * channels)),
        filter(RandomFloats(42, taps * channels)) {}

  int64_t StateFloats() const { return (taps - 1) * channels; }

  // The same parameters with the inputs of [first, first + count) only.
  ShiftMultiplyCase Part(int64_t first, int64_t count) const {
    ShiftMultiplyCase part = *this;
    part.tokens = count;
    part.k = Slice(k, first, count, channels);
    part.v = Slice(v, first, count, channels);
    return part;
  }

  // Updates `states` [slots, taps-1, channels], each with the oldest input
  // first; the back end has them as rings, here of sequences of various
  // lengths. With `in_place`, p is v.
  Floats Run(Backend& backend, SlotRows rows, Floats& states,
             bool in_place = false) const {
    std::vector<SlotRow> placed(rows.begin(), rows.end());
    std::vector<int64_t> begins(taps > 1 ? states.size() / StateFloats() : 0);
    std::vector<int64_t> ends = begins;
    for (SlotRow& row : placed) {
      row.position = 5 + 37 * row.slot;
      if (taps == 1) continue;
      begins[row.slot] = ends[row.slot] = row.position;
    }
    for (const SlotRow& row : placed) {
      if (taps > 1) ends[row.out()] = row.position + row.tokens;
    }
    const int64_t stride = WideStride(channels);
    DeviceFloats device_k(backend, ToWide(k, channels));
    DeviceFloats device_v(backend, ToWide(v, channels));
    DeviceFloats device_filter(backend, filter);
    DeviceShares device_states(backend, Turned(states, begins, true),
                               StateFloats());
    DeviceFloats device_p(backend, ToWide(Floats(k.size()), channels));
    DeviceFloats& p = in_place ? device_v : device_p;
    ShiftMultiplyArguments arguments;
    arguments.channels = channels;
    arguments.taps = taps;
    arguments.k = {device_k.data() + kMargin, stride};
    arguments.v = {device_v.data() + kMargin, stride};
    arguments.filter = device_filter.data();
    arguments.shift_state = device_states.shares();
    arguments.p = {p.data() + kMargin, stride};
    backend.ShiftMultiply(Prepare(backend, placed), arguments);
    states = Turned(device_states.ToHost(), ends, false);
    return FromWide(p.ToHost(), channels);
  }

  // Between states with the oldest input first and rings of sequences that have
  // `positions` tokens, per slot.
  Floats Turned(const Floats& states, const std::vector<int64_t>& positions,
                bool to_rings) const {
    Floats turned = states;
    const int64_t ring = taps - 1;
    for (size_t slot = 0; slot < positions.size(); ++slot) {
      for (int64_t age = 0; age < ring; ++age) {  // 0: the oldest
        const int64_t straight = slot * ring + age;
        const int64_t place = slot * ring + (positions[slot] + age) % ring;
        std::copy_n(states.begin() + (to_rings ? straight : place) * channels,
                    channels,
                    turned.begin() + (to_rings ? place : straight) * channels);
      }
    }
    return turned;
  }

  reference::Values Expected(reference::Values& state) const {
    return reference::ShiftMultiply(channels, taps, Widened(k), Widened(v),
                                    Widened(filter), state);
  }
};

// Parameters of one diagonal SSM, and the inputs of `tokens` tokens.
struct DiagonalScanCase {
  int64_t channels = 0;
  int64_t pairs = 0;
  int64_t tokens = 0;
  Activation activation = Activation::kNone;
  Floats p, gate, decay, read, d;  // no gate: none

  DiagonalScanCase(int64_t channels, int64_t pairs, int64_t tokens)
      : channels(channels),
        pairs(pairs),
        tokens(tokens),
        p(RandomFloats(50, tokens * channels)),
        gate(RandomFloats(51, tokens * channels)),
        // Absolute values below 1: states neither grow nor die out at once.
        decay(RandomFloats(52, pairs * 2 * channels, -0.7f, 0.7f)),
        read(RandomFloats(53, pairs * 2 * channels)),
        d(RandomFloats(54, channels)) {}

  int64_t StateFloats() const { return pairs * 2 * channels; }

  // The same parameters with the inputs of [first, first + count) only.
  DiagonalScanCase Part(int64_t first, int64_t count) const {
    DiagonalScanCase part = *this;
    part.tokens = count;
    part.p = Slice(p, first, count, channels);
    if (!gate.empty()) part.gate = Slice(gate, first, count, channels);
    return part;
  }

  // Updates `states` [slots, pairs, 2, channels]. With `in_place`, y is p.
  Floats Run(Backend& backend, SlotRows rows, Floats& states,
             bool in_place = false) const {
    const int64_t stride = WideStride(channels);
    DeviceFloats device_p(backend, ToWide(p, channels));
    DeviceFloats device_gate(backend, ToWide(gate, channels));
    DeviceFloats device_decay(backend, decay), device_read(backend, read);
    DeviceFloats device_d(backend, d);
    DeviceShares device_states(backend, states, StateFloats());
    DeviceFloats device_y(backend, ToWide(Floats(p.size()), channels));
    DeviceFloats& y = in_place ? device_p : device_y;
    DiagonalScanArguments arguments;
    arguments.channels = channels;
    arguments.pairs = pairs;
    arguments.p = {device_p.data() + kMargin, stride};
    if (!gate.empty()) arguments.gate = {device_gate.data() + kMargin, stride};
    arguments.decay = device_decay.data();
    arguments.read = device_read.data();
    arguments.d = device_d.data();
    arguments.activation = activation;
    arguments.diagonal_state = device_states.shares();
    arguments.y = {y.data() + kMargin, stride};
    backend.DiagonalScan(Prepare(backend, rows), arguments);
    states = device_states.ToHost();
    return FromWide(y.ToHost(), channels);
  }

  reference::Values Expected(reference::Values& state) const {
    reference::DiagonalScanInputs inputs;
    inputs.channels = channels;
    inputs.pairs = pairs;
    inputs.activation = activation;
    inputs.p = Widened(p);
    inputs.gate = Widened(gate);
    inputs.decay = Widened(decay);
    inputs.read = Widened(read);
    inputs.d = Widened(d);
    return reference::DiagonalScan(inputs, state);
  }
};

}  // namespace engram

// An item is two panels of outputs for up to kItemTokens tokens. Inside it, a
// tile of a few tokens by a few vectors of outputs stays in registers while k
// runs over all inputs: one accumulator per output element, k ascending,
// whatever the tile. Weights are read once per tile (4 bytes per element, from
// memory for the first tile, then from the second-level cache), x once per
// panel pair; y is written once, and read once if it is accumulated to.
#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/status.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cc"
#include "hwy/foreach_target.h"  // Comes before highway.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

// Shared by all targets, hence defined once.
#ifndef ENGRAM_KERNELS_CPU_MATMUL_ONCE_
#define ENGRAM_KERNELS_CPU_MATMUL_ONCE_
namespace engram::cpu {

inline constexpr int64_t kItemPanels = 2;
// A multiple of every tile height below.
inline constexpr int64_t kItemTokens = 48;

struct Product {
  const PackedMatrix& weight;
  int64_t tokens;
  ConstMatrix x;
  const MatMulOptions& options;
  Matrix y;
  int64_t item_columns;  // items side by side
};

}  // namespace engram::cpu
#endif  // ENGRAM_KERNELS_CPU_MATMUL_ONCE_

HWY_BEFORE_NAMESPACE();
namespace engram::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(FloatTag());
constexpr int64_t kPanelVectors = PackedMatrix::kPanelWidth / kLanes;

// The tile fills the registers but for a few that hold x and the weights.
constexpr bool kManyRegisters = HWY_MAX_BYTES == 64 || HWY_ARCH_ARM;
constexpr int64_t kAccumulators = kManyRegisters ? 24 : 12;
constexpr int64_t kTilePanels =
    kAccumulators >= 4 * kItemPanels * kPanelVectors ? kItemPanels : 1;
constexpr int64_t kTileTokens =
    std::max<int64_t>(1, kAccumulators / (kTilePanels * kPanelVectors));
static_assert(kItemTokens % kTileTokens == 0);

// Adds bias, activation and the old y to `sum` and stores `count` outputs from
// `output` on.
template <bool kWhole>
HWY_INLINE void Finish(const Product& product, FloatVector sum, int64_t token,
                       int64_t output, size_t count) {
  const MatMulOptions& options = product.options;
  if (options.bias != nullptr) {
    sum = hn::Add(sum, LoadPart<kWhole>(options.bias + output, count));
  }
  sum = Activate(options.activation, sum);
  float* const y = product.y.data + token * product.y.stride + output;
  if (options.accumulate) sum = hn::Add(LoadPart<kWhole>(y, count), sum);
  StorePart<kWhole>(sum, y, count);
}

// Tokens [token, token + kTokens) by panels [panel, panel + kPanels).
template <int64_t kTokens, int64_t kPanels>
HWY_NOINLINE void Tile(const Product& product, int64_t token, int64_t panel) {
  constexpr int64_t kVectors = kPanels * kPanelVectors;
  const FloatTag tag;
  const int64_t inputs = product.weight.inputs();
  const float* HWY_RESTRICT weight = product.weight.panel(panel);
  const int64_t panel_floats = PackedMatrix::PanelFloats(inputs);
  const int64_t x_stride = product.x.stride;
  const float* HWY_RESTRICT x = product.x.data + token * x_stride;

  FloatVector sums[kTokens][kVectors];
  for (int64_t i = 0; i < kTokens; ++i) {
    for (int64_t v = 0; v < kVectors; ++v) sums[i][v] = hn::Zero(tag);
  }
  for (int64_t k = 0; k < inputs; ++k) {
    FloatVector broadcast[kTokens];
    for (int64_t i = 0; i < kTokens; ++i) {
      broadcast[i] = hn::Set(tag, x[i * x_stride + k]);
    }
    for (int64_t v = 0; v < kVectors; ++v) {
      const FloatVector w =
          hn::Load(tag, weight + (v / kPanelVectors) * panel_floats +
                            k * PackedMatrix::kPanelWidth +
                            (v % kPanelVectors) * kLanes);
      for (int64_t i = 0; i < kTokens; ++i) {
        sums[i][v] = hn::MulAdd(broadcast[i], w, sums[i][v]);
      }
    }
  }
  for (int64_t i = 0; i < kTokens; ++i) {
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t output = panel * PackedMatrix::kPanelWidth + v * kLanes;
      const int64_t count = product.weight.outputs() - output;
      if (count >= kLanes) {
        Finish<true>(product, sums[i][v], token + i, output, kLanes);
      } else if (count > 0) {
        Finish<false>(product, sums[i][v], token + i, output, count);
      }
    }
  }
}

// Runs the tile with exactly `tokens` tokens, which is at most kTokens.
template <int64_t kTokens, int64_t kPanels>
void TileOfHeight(const Product& product, int64_t tokens, int64_t token,
                  int64_t panel) {
  if (tokens == kTokens) return Tile<kTokens, kPanels>(product, token, panel);
  if constexpr (kTokens > 1) {
    TileOfHeight<kTokens - 1, kPanels>(product, tokens, token, panel);
  }
}

template <int64_t kPanels>
void Panels(const Product& product, int64_t token, int64_t token_end,
            int64_t panel) {
  for (; token < token_end; token += kTileTokens) {
    const int64_t tokens = std::min(kTileTokens, token_end - token);
    TileOfHeight<kTileTokens, kPanels>(product, tokens, token, panel);
  }
}

void MatMulItem(const Product& product, int64_t item) {
  const int64_t token = item / product.item_columns * kItemTokens;
  const int64_t token_end = std::min(token + kItemTokens, product.tokens);
  int64_t panel = item % product.item_columns * kItemPanels;
  const int64_t panel_end = std::min(
      panel + kItemPanels, PackedMatrix::PanelCount(product.weight.outputs()));
  // A single token leaves room for all panels of an item, and needs them: its
  // few accumulators would otherwise wait for each other.
  if (token_end - token == 1 && panel_end - panel == kItemPanels) {
    return Tile<1, kItemPanels>(product, token, panel);
  }
  for (; panel + kTilePanels <= panel_end; panel += kTilePanels) {
    Panels<kTilePanels>(product, token, token_end, panel);
  }
  for (; panel < panel_end; ++panel) {
    Panels<1>(product, token, token_end, panel);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace engram::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace engram::cpu {
namespace {

HWY_EXPORT(MatMulItem);

// Multiplications below which waking a thread costs more than it saves.
constexpr int64_t kParallelWork = 1 << 16;

}  // namespace

PackedMatrix::PackedMatrix(int64_t outputs, int64_t inputs,
                           std::unique_ptr<Buffer> panels)
    : outputs_(outputs), inputs_(inputs), panels_(std::move(panels)) {
  ENGRAM_CHECK(static_cast<int64_t>(panels_->bytes() / sizeof(float)) >=
               PanelCount(outputs) * PanelFloats(inputs));
}

void PackedMatrix::FillPanel(const Tensor& weight, int64_t index) {
  const int64_t first = index * kPanelWidth;
  const int64_t columns = std::min(kPanelWidth, outputs_ - first);
  std::vector<float> rows(columns * inputs_);
  WidenToFloat32(weight, first * inputs_, absl::MakeSpan(rows));
  float* const target = panels_->floats() + index * PanelFloats(inputs_);
  for (int64_t k = 0; k < inputs_; ++k) {
    for (int64_t column = 0; column < columns; ++column) {
      target[k * kPanelWidth + column] = rows[column * inputs_ + k];
    }
  }
}

void PackedMatrix::CopyRow(int64_t row, float* output) const {
  const float* const source = panel(row / kPanelWidth) + row % kPanelWidth;
  for (int64_t k = 0; k < inputs_; ++k) output[k] = source[k * kPanelWidth];
}

void MatMul(ThreadPool& threads, const PackedMatrix& weight, int64_t tokens,
            ConstMatrix x, const MatMulOptions& options, Matrix y) {
  const int64_t panels = PackedMatrix::PanelCount(weight.outputs());
  const int64_t columns = (panels + kItemPanels - 1) / kItemPanels;
  const Product product{weight, tokens, x, options, y, columns};
  const int64_t items = columns * ((tokens + kItemTokens - 1) / kItemTokens);
  const auto body = [&product](int64_t item) {
    HWY_DYNAMIC_DISPATCH(MatMulItem)(product, item);
  };
  if (tokens * weight.outputs() * weight.inputs() < kParallelWork) {
    for (int64_t item = 0; item < items; ++item) body(item);
  } else {
    threads.ParallelFor(items, body);
  }
}

}  // namespace engram::cpu
#endif  // HWY_ONCE

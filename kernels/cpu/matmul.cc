// An item is two panels of outputs for up to kItemTokens tokens. Inside it, a
// tile of a few tokens by a few vectors of outputs stays in registers while k
// runs over all inputs: one accumulator per output element, k ascending,
// whatever the tile. Weights are read once per tile (4, 2, 1 or 5/8 bytes per
// element, from memory for the first tile, then from the second-level cache)
// and widened as they are loaded, x once per panel pair; y is written once, and
// read once if it is accumulated to.
// Where widening costs more than that, an item of several tiles does it once: a
// block of inputs is widened into the first-level cache, and all tiles go over
// it before the next one, their sums kept in between.
#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/status.h"
#include "kernels/weight_values.h"

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
// Inputs that are widened at a time: those of two panels take 16 KB.
inline constexpr int64_t kBlockInputs = 64;
static_assert(kBlockInputs % kInt4GroupInputs == 0);

struct Product {
  const PackedMatrix& weight;
  int64_t tokens;
  ConstMatrix x;
  const MatMulOptions& options;
  Matrix y;
  int64_t item_columns;  // items side by side
  int64_t item_rows;     // items above each other
  int64_t parts;         // of the columns, one for each thread
};

// Item number `item` in the order in which a thread takes them: its own part of
// the columns, from one row of items to the next, so that it reads no more of
// the weights than its part, again and again.
struct ItemPlace {
  int64_t row;
  int64_t column;
};
inline ItemPlace PlaceOf(const Product& product, int64_t item) {
  // The divisions below would be felt in the steps of the smallest models.
  if (product.item_rows == 1) return {0, item};
  const int64_t columns = product.item_columns;
  const int64_t part =
      ((item / product.item_rows + 1) * product.parts - 1) / columns;
  const int64_t begin = columns * part / product.parts;
  const int64_t width = columns * (part + 1) / product.parts - begin;
  const int64_t within = item - begin * product.item_rows;
  return {within / width, begin + within % width};
}

// Where the value of a panel's column lies among those of one input.
inline int64_t PositionInPanel(WeightFormat format, int64_t column) {
  if (format != WeightFormat::kBFloat16) return column;
  constexpr int64_t kHalf = PackedMatrix::kPanelWidth / 2;
  return column < kHalf ? 2 * column : 2 * (column - kHalf) + 1;
}

// The scales of a kInt8 panel, kPanelWidth for each unit of inputs.
inline const float* Int8Scales(const void* panel, int64_t inputs) {
  return reinterpret_cast<const float*>(static_cast<const std::byte*>(panel) +
                                        PackedMatrix::kPanelWidth * inputs);
}

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

// How each format is read: Load gives the weights of input k and vector v of a
// panel's outputs as float32. kIsWidenedOnce: for all tiles of an item.
class Float32Values {
 public:
  static constexpr bool kIsWidenedOnce = false;
  explicit Float32Values(const void* panel, int64_t)
      : values_(static_cast<const float*>(panel)) {}
  HWY_INLINE FloatVector Load(int64_t k, int64_t v) const {
    return hn::Load(FloatTag(),
                    values_ + k * PackedMatrix::kPanelWidth + v * kLanes);
  }

 private:
  const float* HWY_RESTRICT values_;
};

class Float16Values {
 public:
  static constexpr bool kIsWidenedOnce = false;
  explicit Float16Values(const void* panel, int64_t)
      : values_(static_cast<const hwy::float16_t*>(panel)) {}
  HWY_INLINE FloatVector Load(int64_t k, int64_t v) const {
    const hn::Rebind<hwy::float16_t, FloatTag> half_tag;
    return hn::PromoteTo(
        FloatTag(), hn::Load(half_tag, values_ + k * PackedMatrix::kPanelWidth +
                                           v * kLanes));
  }

 private:
  const hwy::float16_t* HWY_RESTRICT values_;
};

// Two outputs share a word, see PackedMatrix: the lower half of the outputs is
// in the words' lower halves.
class BFloat16Values {
 public:
  static constexpr bool kIsWidenedOnce = false;
  explicit BFloat16Values(const void* panel, int64_t)
      : words_(static_cast<const uint32_t*>(panel)) {}
  HWY_INLINE FloatVector Load(int64_t k, int64_t v) const {
    constexpr int64_t kWordVectors = kPanelVectors / 2;
    const hn::RebindToUnsigned<FloatTag> word_tag;
    const auto pair =
        hn::Load(word_tag, words_ + k * (PackedMatrix::kPanelWidth / 2) +
                               v % kWordVectors * kLanes);
    return hn::BitCast(FloatTag(),
                       v < kWordVectors
                           ? hn::ShiftLeft<16>(pair)
                           : hn::And(pair, hn::Set(word_tag, 0xffff0000u)));
  }

 private:
  const uint32_t* HWY_RESTRICT words_;
};
static_assert(kPanelVectors % 2 == 0);

class Int8Values {
 public:
  static constexpr bool kIsWidenedOnce = true;
  explicit Int8Values(const void* panel, int64_t inputs)
      : values_(static_cast<const int8_t*>(panel)),
        scales_(Int8Scales(panel, inputs)) {}
  HWY_INLINE FloatVector Load(int64_t k, int64_t v) const {
    const FloatTag tag;
    const hn::RebindToSigned<FloatTag> integer_tag;
    const hn::Rebind<int8_t, FloatTag> value_tag;
    constexpr int64_t kWidth = PackedMatrix::kPanelWidth;
    const auto values = hn::Load(value_tag, values_ + k * kWidth + v * kLanes);
    // A panel's values end at a multiple of 32 bytes only.
    const FloatVector scale =
        hn::LoadU(tag, scales_ + k / kInt8UnitInputs * kWidth + v * kLanes);
    return hn::Mul(hn::ConvertTo(tag, hn::PromoteTo(integer_tag, values)),
                   scale);
  }

 private:
  const int8_t* HWY_RESTRICT values_;
  const float* HWY_RESTRICT scales_;
};

// Read by whole words of a group, see Accumulate and Widen below.
class Int4Values {
 public:
  static constexpr bool kIsWidenedOnce = true;
  using Words = hn::Vec<hn::RebindToUnsigned<FloatTag>>;

  explicit Int4Values(const void* panel, int64_t)
      : groups_(static_cast<const Int4Group*>(panel)) {}
  const Int4Group& group(int64_t index) const { return groups_[index]; }

  static HWY_INLINE FloatVector Promote(const uint16_t* halves, int64_t v) {
    const hn::Rebind<hwy::float16_t, FloatTag> half_tag;
    return hn::PromoteTo(
        FloatTag(),
        hn::Load(half_tag,
                 reinterpret_cast<const hwy::float16_t*>(halves) + v * kLanes));
  }
  // Of the inputs whose integers are in the lowest bits of the words.
  static HWY_INLINE FloatVector Value(Words words, FloatVector scale,
                                      FloatVector minimum) {
    const FloatTag tag;
    const hn::RebindToUnsigned<FloatTag> word_tag;
    const hn::RebindToSigned<FloatTag> integer_tag;
    const auto integers = hn::And(words, hn::Set(word_tag, 15));
    return hn::MulAdd(hn::ConvertTo(tag, hn::BitCast(integer_tag, integers)),
                      scale, minimum);
  }

 private:
  const Int4Group* HWY_RESTRICT groups_;
};

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
  float* const y = product.y.floats() + token * product.y.stride + output;
  if (options.accumulate) sum = hn::Add(LoadPart<kWhole>(y, count), sum);
  StorePart<kWhole>(sum, y, count);
}

// The sums of kTokens tokens and the vectors of kPanels panels.
template <int64_t kTokens, int64_t kPanels>
struct Sums {
  static constexpr int64_t kVectors = kPanels * kPanelVectors;
  FloatVector values[kTokens][kVectors];
};

// How kPanels panels are read, each from where `start` says.
template <class Values, int64_t kPanels>
struct PanelValues {
  Values values[kPanels];
};
template <class Values, int64_t kPanels, class Start>
HWY_INLINE PanelValues<Values, kPanels> PanelsFrom(const Start& start,
                                                   int64_t inputs) {
  if constexpr (kPanels == 1) {
    return {{Values(start(0), inputs)}};
  } else {
    static_assert(kPanels == 2);
    return {{Values(start(0), inputs), Values(start(1), inputs)}};
  }
}

// sums += x times the weights, over `inputs` inputs from the panels' first on.
template <class Values, int64_t kTokens, int64_t kPanels>
HWY_INLINE void Accumulate(const Values (&panels)[kPanels],
                           const float* HWY_RESTRICT x, int64_t x_stride,
                           int64_t inputs, Sums<kTokens, kPanels>* sums) {
  const FloatTag tag;
  for (int64_t k = 0; k < inputs; ++k) {
    FloatVector broadcast[kTokens];
    for (int64_t i = 0; i < kTokens; ++i) {
      broadcast[i] = hn::Set(tag, x[i * x_stride + k]);
    }
    for (int64_t v = 0; v < sums->kVectors; ++v) {
      const FloatVector w =
          panels[v / kPanelVectors].Load(k, v % kPanelVectors);
      for (int64_t i = 0; i < kTokens; ++i) {
        sums->values[i][v] = hn::MulAdd(broadcast[i], w, sums->values[i][v]);
      }
    }
  }
}

template <int64_t kTokens, int64_t kPanels>
HWY_INLINE void Accumulate(const Int4Values (&panels)[kPanels],
                           const float* HWY_RESTRICT x, int64_t x_stride,
                           int64_t inputs, Sums<kTokens, kPanels>* sums) {
  constexpr int64_t kVectors = Sums<kTokens, kPanels>::kVectors;
  const FloatTag tag;
  const hn::RebindToUnsigned<FloatTag> word_tag;
  int64_t k = 0;
  for (int64_t g = 0; k < inputs; ++g) {
    FloatVector scales[kVectors], minimums[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) {
      const Int4Group& group = panels[v / kPanelVectors].group(g);
      scales[v] = Int4Values::Promote(group.scales, v % kPanelVectors);
      minimums[v] = Int4Values::Promote(group.minimums, v % kPanelVectors);
    }
    for (int64_t word = 0; word < Int4Group::kWords && k < inputs; ++word) {
      Int4Values::Words words[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) {
        words[v] =
            hn::Load(word_tag, panels[v / kPanelVectors].group(g).words[word] +
                                   v % kPanelVectors * kLanes);
      }
      const int64_t end = std::min(k + Int4Group::kWordInputs, inputs);
      for (; k < end; ++k) {
        FloatVector broadcast[kTokens];
        for (int64_t i = 0; i < kTokens; ++i) {
          broadcast[i] = hn::Set(tag, x[i * x_stride + k]);
        }
        for (int64_t v = 0; v < kVectors; ++v) {
          const FloatVector w =
              Int4Values::Value(words[v], scales[v], minimums[v]);
          words[v] = hn::ShiftRight<4>(words[v]);
          for (int64_t i = 0; i < kTokens; ++i) {
            sums->values[i][v] =
                hn::MulAdd(broadcast[i], w, sums->values[i][v]);
          }
        }
      }
    }
  }
}

// Ends the sums of tokens from `token` on and outputs from `panel` on.
template <int64_t kTokens, int64_t kPanels>
HWY_INLINE void Store(const Product& product, int64_t token, int64_t panel,
                      const Sums<kTokens, kPanels>& sums) {
  for (int64_t i = 0; i < kTokens; ++i) {
    for (int64_t v = 0; v < sums.kVectors; ++v) {
      const int64_t output = panel * PackedMatrix::kPanelWidth + v * kLanes;
      const int64_t count = product.weight.outputs() - output;
      if (count >= kLanes) {
        Finish<true>(product, sums.values[i][v], token + i, output, kLanes);
      } else if (count > 0) {
        Finish<false>(product, sums.values[i][v], token + i, output, count);
      }
    }
  }
}

// Tokens [token, token + kTokens) by panels [panel, panel + kPanels).
template <class Values, int64_t kTokens, int64_t kPanels>
HWY_NOINLINE void Tile(const Product& product, int64_t token, int64_t panel) {
  const int64_t inputs = product.weight.inputs();
  Sums<kTokens, kPanels> sums;
  for (int64_t i = 0; i < kTokens; ++i) {
    for (int64_t v = 0; v < sums.kVectors; ++v) {
      sums.values[i][v] = hn::Zero(FloatTag());
    }
  }
  const float* const x = product.x.floats() + token * product.x.stride;
  const auto panels = PanelsFrom<Values, kPanels>(
      [&](int64_t i) { return product.weight.panel(panel + i); }, inputs);
  Accumulate(panels.values, x, product.x.stride, inputs, &sums);
  Store(product, token, panel, sums);
}

// Of an item of several tiles a block of its weights, widened, and the sums so
// far.
struct Block {
  alignas(
      64) float weights[kItemPanels][kBlockInputs * PackedMatrix::kPanelWidth];
  alignas(64) float sums[kItemTokens][kItemPanels * PackedMatrix::kPanelWidth];
};

template <class Values>
HWY_INLINE void Widen(const Values& panel, int64_t begin, int64_t inputs,
                      float* HWY_RESTRICT widened) {
  for (int64_t k = 0; k < inputs; ++k) {
    for (int64_t v = 0; v < kPanelVectors; ++v) {
      hn::Store(panel.Load(begin + k, v), FloatTag(),
                widened + k * PackedMatrix::kPanelWidth + v * kLanes);
    }
  }
}

// Whole words, also where the last has fewer inputs.
HWY_INLINE void Widen(const Int4Values& panel, int64_t begin, int64_t inputs,
                      float* HWY_RESTRICT widened) {
  const FloatTag tag;
  const hn::RebindToUnsigned<FloatTag> word_tag;
  for (int64_t k = 0; k < inputs; k += Int4Group::kWordInputs) {
    const Int4Group& group = panel.group((begin + k) / kInt4GroupInputs);
    const int64_t word =
        (begin + k) % kInt4GroupInputs / Int4Group::kWordInputs;
    for (int64_t v = 0; v < kPanelVectors; ++v) {
      const FloatVector scale = Int4Values::Promote(group.scales, v);
      const FloatVector minimum = Int4Values::Promote(group.minimums, v);
      auto words = hn::Load(word_tag, group.words[word] + v * kLanes);
      for (int64_t i = 0; i < Int4Group::kWordInputs; ++i) {
        hn::Store(Int4Values::Value(words, scale, minimum), tag,
                  widened + (k + i) * PackedMatrix::kPanelWidth + v * kLanes);
        words = hn::ShiftRight<4>(words);
      }
    }
  }
}

// The tiles of an item, each over all inputs.
template <class Values>
class WholeTiles {
 public:
  explicit WholeTiles(const Product& product) : product_(product) {}

  template <int64_t kTokens, int64_t kPanels>
  void Run(int64_t token, int64_t panel) const {
    Tile<Values, kTokens, kPanels>(product_, token, panel);
  }

 private:
  const Product& product_;
};

// The same over the inputs from `begin` on that are in `block`, whose first
// token and panel are the item's.
class BlockTiles {
 public:
  BlockTiles(const Product& product, int64_t begin, int64_t token,
             int64_t panel, Block* block)
      : product_(product),
        begin_(begin),
        inputs_(std::min(kBlockInputs, product.weight.inputs() - begin)),
        token_(token),
        panel_(panel),
        block_(*block) {}

  template <int64_t kTokens, int64_t kPanels>
  HWY_NOINLINE void Run(int64_t token, int64_t panel) const {
    const FloatTag tag;
    float* const kept = block_.sums[token - token_] +
                        (panel - panel_) * PackedMatrix::kPanelWidth;
    constexpr int64_t kKeptStride = kItemPanels * PackedMatrix::kPanelWidth;
    Sums<kTokens, kPanels> sums;
    for (int64_t i = 0; i < kTokens; ++i) {
      for (int64_t v = 0; v < sums.kVectors; ++v) {
        sums.values[i][v] =
            begin_ == 0 ? hn::Zero(tag)
                        : hn::Load(tag, kept + i * kKeptStride + v * kLanes);
      }
    }
    const float* const x =
        product_.x.floats() + token * product_.x.stride + begin_;
    const auto panels = PanelsFrom<Float32Values, kPanels>(
        [&](int64_t i) { return block_.weights[panel - panel_ + i]; }, inputs_);
    Accumulate(panels.values, x, product_.x.stride, inputs_, &sums);
    if (begin_ + inputs_ == product_.weight.inputs()) {
      return Store(product_, token, panel, sums);
    }
    for (int64_t i = 0; i < kTokens; ++i) {
      for (int64_t v = 0; v < sums.kVectors; ++v) {
        hn::Store(sums.values[i][v], tag, kept + i * kKeptStride + v * kLanes);
      }
    }
  }

 private:
  const Product& product_;
  const int64_t begin_;
  const int64_t inputs_;
  const int64_t token_;
  const int64_t panel_;
  Block& block_;
};

// Runs the tile with exactly `tokens` tokens, which is at most kTokens.
template <int64_t kTokens, int64_t kPanels, class Tiles>
void TileOfHeight(const Tiles& tiles, int64_t tokens, int64_t token,
                  int64_t panel) {
  if (tokens == kTokens)
    return tiles.template Run<kTokens, kPanels>(token, panel);
  if constexpr (kTokens > 1) {
    TileOfHeight<kTokens - 1, kPanels>(tiles, tokens, token, panel);
  }
}

template <int64_t kPanels, class Tiles>
void TilesOfPanels(const Tiles& tiles, int64_t token, int64_t token_end,
                   int64_t panel) {
  for (; token < token_end; token += kTileTokens) {
    const int64_t tokens = std::min(kTileTokens, token_end - token);
    TileOfHeight<kTileTokens, kPanels>(tiles, tokens, token, panel);
  }
}

template <class Tiles>
void AllTiles(const Tiles& tiles, int64_t token, int64_t token_end,
              int64_t panel, int64_t panel_end) {
  for (; panel + kTilePanels <= panel_end; panel += kTilePanels) {
    TilesOfPanels<kTilePanels>(tiles, token, token_end, panel);
  }
  for (; panel < panel_end; ++panel) {
    TilesOfPanels<1>(tiles, token, token_end, panel);
  }
}

template <class Values>
HWY_NOINLINE void ItemByBlocks(const Product& product, int64_t token,
                               int64_t token_end, int64_t panel,
                               int64_t panel_end) {
  const int64_t inputs = product.weight.inputs();
  Block block;
  for (int64_t begin = 0; begin < inputs; begin += kBlockInputs) {
    const int64_t count = std::min(kBlockInputs, inputs - begin);
    for (int64_t i = panel; i < panel_end; ++i) {
      Widen(Values(product.weight.panel(i), inputs), begin, count,
            block.weights[i - panel]);
    }
    AllTiles(BlockTiles(product, begin, token, panel, &block), token, token_end,
             panel, panel_end);
  }
}

template <class Values>
void Item(const Product& product, int64_t item) {
  const ItemPlace place = PlaceOf(product, item);
  const int64_t token = place.row * kItemTokens;
  const int64_t token_end = std::min(token + kItemTokens, product.tokens);
  const int64_t panel = place.column * kItemPanels;
  const int64_t panel_end = std::min(
      panel + kItemPanels, PackedMatrix::PanelCount(product.weight.outputs()));
  // A single token leaves room for all panels of an item, and needs them: its
  // few accumulators would otherwise wait for each other.
  if (token_end - token == 1 && panel_end - panel == kItemPanels) {
    return Tile<Values, 1, kItemPanels>(product, token, panel);
  }
  if constexpr (Values::kIsWidenedOnce) {
    if (token_end - token > kTileTokens) {
      return ItemByBlocks<Values>(product, token, token_end, panel, panel_end);
    }
  }
  AllTiles(WholeTiles<Values>(product), token, token_end, panel, panel_end);
}

void MatMulItem(const Product& product, int64_t item) {
  switch (product.weight.format()) {
    case WeightFormat::kFloat32:
      return Item<Float32Values>(product, item);
    case WeightFormat::kBFloat16:
      return Item<BFloat16Values>(product, item);
    case WeightFormat::kFloat16:
      return Item<Float16Values>(product, item);
    case WeightFormat::kInt8:
      return Item<Int8Values>(product, item);
    case WeightFormat::kInt4:
      return Item<Int4Values>(product, item);
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

// Weights come from memory or a cache of a higher level, each is brought into a
// register, whatever its format, and multiplied there.
constexpr double kWeightByteNs = 1.0 / 24;
constexpr double kWeightNs = 1.0 / 12;
constexpr double kMultiplyAddNs = 1.0 / 64;

// `rows` of `columns` outputs to a panel's groups.
void Interleave(const Int4Rows& rows, int64_t columns, int64_t inputs,
                Int4Group* groups) {
  for (int64_t column = 0; column < columns; ++column) {
    for (int64_t k = 0; k < inputs; ++k) {
      const uint32_t value = rows.values[column * inputs + k];
      const int64_t place = k % kInt4GroupInputs;
      groups[k / kInt4GroupInputs]
          .words[place / Int4Group::kWordInputs][column] |=
          value << (4 * (place % Int4Group::kWordInputs));
    }
    for (int64_t g = 0; g < Int4Groups(inputs); ++g) {
      const int64_t index = column * Int4Groups(inputs) + g;
      groups[g].scales[column] = rows.scales[index];
      groups[g].minimums[column] = rows.minimums[index];
    }
  }
}

// `rows` [columns, inputs] to a panel's [inputs, kPanelWidth].
template <typename Value>
void Interleave(WeightFormat format, const std::vector<Value>& rows,
                int64_t columns, int64_t inputs, std::byte* panel) {
  auto* const target = reinterpret_cast<Value*>(panel);
  for (int64_t column = 0; column < columns; ++column) {
    const int64_t position = PositionInPanel(format, column);
    const Value* const row = rows.data() + column * inputs;
    for (int64_t k = 0; k < inputs; ++k) {
      target[k * PackedMatrix::kPanelWidth + position] = row[k];
    }
  }
}

}  // namespace

PackedMatrix::PackedMatrix(int64_t outputs, int64_t inputs, WeightFormat format,
                           std::unique_ptr<Buffer> panels)
    : outputs_(outputs),
      inputs_(inputs),
      format_(format),
      panels_(std::move(panels)) {
  ENGRAM_CHECK(static_cast<int64_t>(panels_->bytes()) >=
               PanelCount(outputs) * PanelBytes(inputs, format));
}

int64_t PackedMatrix::PanelBytes(int64_t inputs, WeightFormat format) {
  if (format == WeightFormat::kInt4) {
    return Int4Groups(inputs) * static_cast<int64_t>(sizeof(Int4Group));
  }
  return WeightBytes(format, kPanelWidth, inputs);
}

absl::Status PackedMatrix::FillPanel(const WeightSource& weight,
                                     int64_t index) {
  const int64_t first = index * kPanelWidth;
  const int64_t columns = std::min(kPanelWidth, outputs_ - first);
  auto* const target = static_cast<std::byte*>(panels_->data()) +
                       index * PanelBytes(inputs_, format_);
  if (format_ == WeightFormat::kFloat32) {
    Interleave(format_, weight.Float32(first, columns), columns, inputs_,
               target);
  } else if (format_ == WeightFormat::kInt8) {
    ENGRAM_ASSIGN_OR_RETURN(const Int8Rows rows, weight.Int8(first, columns));
    Interleave(format_, rows.values, columns, inputs_, target);
    Interleave(format_, rows.scales, columns, Int8Units(inputs_),
               target + kPanelWidth * inputs_);
  } else if (format_ == WeightFormat::kInt4) {
    ENGRAM_ASSIGN_OR_RETURN(const Int4Rows rows, weight.Int4(first, columns));
    Interleave(rows, columns, inputs_, reinterpret_cast<Int4Group*>(target));
  } else {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint16_t> rows,
                            weight.Halves(first, columns));
    Interleave(format_, rows, columns, inputs_, target);
  }
  return absl::OkStatus();
}

void PackedMatrix::CopyRow(int64_t row, float* output) const {
  const std::byte* const source = panel(row / kPanelWidth);
  const int64_t position = PositionInPanel(format_, row % kPanelWidth);
  if (format_ == WeightFormat::kFloat32) {
    const auto* const values = reinterpret_cast<const float*>(source);
    for (int64_t k = 0; k < inputs_; ++k) {
      output[k] = values[k * kPanelWidth + position];
    }
    return;
  }
  if (format_ == WeightFormat::kInt8) {
    const auto* const values = reinterpret_cast<const int8_t*>(source);
    const float* const scales = Int8Scales(source, inputs_);
    for (int64_t k = 0; k < inputs_; ++k) {
      output[k] = static_cast<float>(values[k * kPanelWidth + position]) *
                  scales[k / kInt8UnitInputs * kPanelWidth + position];
    }
    return;
  }
  if (format_ == WeightFormat::kInt4) {
    const auto* const groups = reinterpret_cast<const Int4Group*>(source);
    for (int64_t k = 0; k < inputs_; ++k) {
      const Int4Group& group = groups[k / kInt4GroupInputs];
      const int64_t place = k % kInt4GroupInputs;
      const uint32_t word =
          group.words[place / Int4Group::kWordInputs][position];
      output[k] =
          WidenInt4(static_cast<uint8_t>(
                        word >> (4 * (place % Int4Group::kWordInputs)) & 15),
                    group.scales[position], group.minimums[position]);
    }
    return;
  }
  const auto* const bits = reinterpret_cast<const uint16_t*>(source);
  for (int64_t k = 0; k < inputs_; ++k) {
    output[k] = WidenValue(format_, bits[k * kPanelWidth + position]);
  }
}

void MatMul(ThreadPool& threads, const PackedMatrix& weight, int64_t tokens,
            ConstMatrix x, const MatMulOptions& options, Matrix y) {
  const int64_t panels = PackedMatrix::PanelCount(weight.outputs());
  const int64_t columns = (panels + kItemPanels - 1) / kItemPanels;
  const int64_t rows = (tokens + kItemTokens - 1) / kItemTokens;
  const Product product{
      weight, tokens,  x,    options,
      y,      columns, rows, std::min<int64_t>(threads.threads(), columns)};
  const auto weights = static_cast<double>(weight.outputs() * weight.inputs());
  const double work_ns =
      kWeightByteNs * static_cast<double>(weight.bytes()) +
      (kWeightNs + kMultiplyAddNs * static_cast<double>(tokens)) * weights;
  threads.ParallelFor(rows * columns, static_cast<int64_t>(work_ns),
                      [&product](int64_t item) {
                        HWY_DYNAMIC_DISPATCH(MatMulItem)(product, item);
                      });
}

}  // namespace engram::cpu
#endif  // HWY_ONCE

#include "model/random_model.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "kernels/status.h"
#include "model/modules.h"

namespace engram {
namespace {

enum class Family { kMamba, kMamba2, kH3 };

struct Shape {
  const char* name;
  Family family;
  int64_t d_model;
  int64_t layers;
  std::vector<int64_t> attention_layers = {};
  int64_t heads = 0;       // of attention
  int64_t vocabulary = 0;  // 0: the family's
};

const std::vector<Shape>& Shapes() {
  static const auto* const shapes = new std::vector<Shape>{
      {"mamba-130m", Family::kMamba, 768, 24},
      {"mamba-370m", Family::kMamba, 1024, 48},
      {"mamba-790m", Family::kMamba, 1536, 48},
      {"mamba-1.4b", Family::kMamba, 2048, 48},
      {"mamba-2.8b", Family::kMamba, 2560, 64},
      {"mamba2-130m", Family::kMamba2, 768, 24},
      {"mamba2-370m", Family::kMamba2, 1024, 48},
      {"mamba2-780m", Family::kMamba2, 1536, 48},
      {"mamba2-1.3b", Family::kMamba2, 2048, 48},
      {"mamba2-2.7b", Family::kMamba2, 2560, 64},
      {"mamba2attn-2.7b",
       Family::kMamba2,
       2560,
       64,
       {9, 18, 27, 36, 45, 56},
       30},
      {"h3-125m", Family::kH3, 768, 12, {6}, 12},
      {"h3-355m", Family::kH3, 1024, 24, {8, 16}, 16},
      {"h3-1.3b", Family::kH3, 2048, 24, {8, 16}, 16},
      {"h3-2.7b", Family::kH3, 2560, 32, {8, 16, 24}, 20},
  };
  return *shapes;
}

// What all shapes of a family have in common.
constexpr int64_t kVocab = 50277;  // of Mamba and Mamba-2, without padding
constexpr int64_t kMambaVocab = 50280;
constexpr int64_t kMamba2Vocab = 50288;
constexpr int64_t kH3Vocab = 50264;
constexpr int64_t kExpand = 2;
constexpr int64_t kTaps = 4;
constexpr int64_t kMambaStates = 16;
constexpr int64_t kMamba2States = 128;
constexpr int64_t kMamba2HeadDim = 64;
constexpr int64_t kAttentionHeadDim = 128;  // of Mamba-2's hybrid
constexpr int64_t kShiftStates = 64;
constexpr int64_t kDiagonalPairs = 32;

void KeepLayers(int64_t layers, Shape* shape) {
  shape->layers = std::min(shape->layers, layers);
  std::vector<int64_t>& attention = shape->attention_layers;
  if (attention.empty() || attention.back() < shape->layers) return;
  attention.erase(
      std::lower_bound(attention.begin(), attention.end(), shape->layers),
      attention.end());
  const int64_t last = shape->layers - 1;
  if (last > 0 && (attention.empty() || attention.back() < last)) {
    attention.push_back(last);
  }
}

void Cut(const RandomModelCut& cut, Shape* shape) {
  if (cut.layers > 0) KeepLayers(cut.layers, shape);
  if (cut.d_model > 0) shape->d_model = cut.d_model;
  shape->vocabulary = cut.vocabulary;
}

// With padding.
int64_t Vocabulary(const Shape& shape) {
  if (shape.vocabulary > 0) return shape.vocabulary;
  switch (shape.family) {
    case Family::kMamba:
      return kMambaVocab;
    case Family::kMamba2:
      return kMamba2Vocab;
    case Family::kH3:
      return kH3Vocab;
  }
  return 0;
}

std::string AttentionIndices(const Shape& shape) {
  return absl::StrCat("\"attn_layer_idx\": [",
                      absl::StrJoin(shape.attention_layers, ","), "]");
}

// config.json as it is published with the shape.
std::string ConfigText(const Shape& shape) {
  if (shape.family == Family::kH3) {
    return absl::StrCat(R"({"model_type": "h3", "vocab_size": )",
                        Vocabulary(shape), R"(, "hidden_size": )",
                        shape.d_model, R"(, "num_hidden_layers": )",
                        shape.layers, R"(, "num_attention_heads": )",
                        shape.heads, ", ", AttentionIndices(shape), "}");
  }
  const std::string skeleton = absl::StrCat(
      R"({"d_model": )", shape.d_model, R"(, "n_layer": )", shape.layers,
      R"(, "vocab_size": )", shape.vocabulary > 0 ? shape.vocabulary : kVocab,
      R"(, "rms_norm": true, "residual_in_fp32": true, )",
      R"("fused_add_norm": true, )");
  if (shape.family == Family::kMamba) {
    return absl::StrCat(skeleton,
                        R"("ssm_cfg": {}, "pad_vocab_size_multiple": 8})");
  }
  std::string attention = "{}";
  if (shape.heads > 0) {
    attention = absl::StrCat(
        R"({"causal": true, "d_conv": )", kTaps, R"(, "head_dim": )",
        kAttentionHeadDim, R"(, "num_heads": )", shape.heads,
        R"(, "out_proj_bias": false, "qkv_proj_bias": false, )",
        R"("rotary_emb_dim": 64})");
  }
  return absl::StrCat(
      skeleton, AttentionIndices(shape), R"(, "attn_cfg": )", attention,
      R"(, "ssm_cfg": {"layer": "Mamba2"}, "d_intermediate": 0,)",
      R"( "pad_vocab_size_multiple": 16})");
}

// Where values lie; what a trained model has in such a place, roughly, so that
// activations and states are of usual sizes and stay finite.
struct Range {
  float low;
  float high;
  auto operator<=>(const Range&) const = default;
};
constexpr Range kMatrix = {-0.035f, 0.035f};  // standard deviation 0.02
constexpr Range kOne = {1, 1};
constexpr Range kConvolution = {-0.5f, 0.5f};
constexpr Range kBias = {-0.02f, 0.02f};
constexpr Range kLogA = {0, 2.77f};         // log of 1 to 16
constexpr Range kDtBias = {-6.9f, -2.25f};  // softplus: 0.001 to 0.1
constexpr Range kFilter = {-0.125f, 0.125f};
constexpr Range kLogDt = {-6.9f, -2.3f};
constexpr Range kLogHalf = {-0.7f, -0.69f};
constexpr Range kFrequency = {0, 100};
constexpr Range kComplex = {-1, 1};

struct Place {
  std::vector<int64_t> shape;
  Range range;
  DataType type = DataType::kFloat32;
};

// The tensors of a model, by name.
class Places {
 public:
  Places(const Shape& shape, DataType matrices)
      : d_model_(shape.d_model), matrices_(matrices) {
    const bool is_h3 = shape.family == Family::kH3;
    Matrix(is_h3 ? "backbone.embeddings.word_embeddings" : "backbone.embedding",
           Vocabulary(shape), d_model_);
    Norm(is_h3 ? "backbone.ln_f" : "backbone.norm_f", is_h3);
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      const bool attends = std::count(shape.attention_layers.begin(),
                                      shape.attention_layers.end(), layer) > 0;
      AddLayer(shape, layer, attends);
    }
  }

  std::map<std::string, Place, std::less<>> Take() {
    return std::move(places_);
  }

 private:
  void AddLayer(const Shape& shape, int64_t layer, bool attends) {
    const std::string mixer = LayerTensorName(layer, "mixer.");
    if (shape.family == Family::kH3) {
      Norm(LayerTensorName(layer, "norm1"), true);
      Norm(LayerTensorName(layer, "norm2"), true);
      Biased(LayerTensorName(layer, "mlp.fc1"), 4 * d_model_, d_model_);
      Biased(LayerTensorName(layer, "mlp.fc2"), d_model_, 4 * d_model_);
      return attends ? H3Attention(mixer) : H3(mixer);
    }
    Norm(LayerTensorName(layer, "norm"), false);
    if (attends) return Attention(mixer, shape.heads * kAttentionHeadDim);
    return shape.family == Family::kMamba ? Mamba(mixer) : Mamba2(mixer);
  }

  void Mamba(const std::string& mixer) {
    const int64_t d_inner = kExpand * d_model_;
    const int64_t dt_rank = (d_model_ + 15) / 16;
    Matrix(mixer + "in_proj", 2 * d_inner, d_model_);
    Convolution(mixer, d_inner);
    Matrix(mixer + "x_proj", dt_rank + 2 * kMambaStates, d_inner);
    Matrix(mixer + "dt_proj", d_inner, dt_rank);
    Add(mixer + "dt_proj.bias", {d_inner}, kDtBias);
    Add(mixer + "A_log", {d_inner, kMambaStates}, kLogA);
    Add(mixer + "D", {d_inner}, kOne);
    Matrix(mixer + "out_proj", d_model_, d_inner);
  }

  void Mamba2(const std::string& mixer) {
    const int64_t d_inner = kExpand * d_model_;
    const int64_t heads = d_inner / kMamba2HeadDim;
    const int64_t convolved = d_inner + 2 * kMamba2States;
    Matrix(mixer + "in_proj", d_inner + convolved + heads, d_model_);
    Convolution(mixer, convolved);
    Add(mixer + "dt_bias", {heads}, kDtBias);
    Add(mixer + "A_log", {heads}, kLogA);
    Add(mixer + "D", {heads}, kOne);
    Add(mixer + "norm.weight", {d_inner}, kOne);
    Matrix(mixer + "out_proj", d_model_, d_inner);
  }

  void Attention(const std::string& mixer, int64_t width) {
    Matrix(mixer + "in_proj", 3 * width, d_model_);
    Convolution(mixer, 3 * width);
    Matrix(mixer + "out_proj", d_model_, width);
  }

  void H3(const std::string& mixer) {
    for (const char* name : {"q_proj", "k_proj", "v_proj", "output_linear"}) {
      Biased(mixer + name, d_model_, d_model_);
    }
    const std::string shift = mixer + "ssm_k_kernel.kernel.";
    Add(shift + "B", {d_model_, kShiftStates}, kFilter);
    Add(shift + "C", {1, d_model_, kShiftStates}, kFilter);
    Add(mixer + "ssm_k_D", {d_model_}, kOne);
    const std::string diagonal = mixer + "kernel.kernel.";
    Add(diagonal + "log_dt", {d_model_}, kLogDt);
    Add(diagonal + "inv_A_real", {d_model_, kDiagonalPairs}, kLogHalf);
    Add(diagonal + "A_imag", {d_model_, kDiagonalPairs}, kFrequency);
    Add(diagonal + "B", {d_model_, kDiagonalPairs, 2}, kComplex);
    Add(diagonal + "C", {1, d_model_, kDiagonalPairs, 2}, kComplex);
    Add(mixer + "D", {d_model_}, kOne);
  }

  void H3Attention(const std::string& mixer) {
    Biased(mixer + "Wqkv", 3 * d_model_, d_model_);
    Biased(mixer + "out_proj", d_model_, d_model_);
  }

  void Matrix(const std::string& name, int64_t outputs, int64_t inputs) {
    places_[name + ".weight"] = {{outputs, inputs}, kMatrix, matrices_};
  }
  void Biased(const std::string& name, int64_t outputs, int64_t inputs) {
    Matrix(name, outputs, inputs);
    Add(name + ".bias", {outputs}, kBias);
  }
  void Convolution(const std::string& mixer, int64_t channels) {
    Add(mixer + "conv1d.weight", {channels, 1, kTaps}, kConvolution);
    Add(mixer + "conv1d.bias", {channels}, kBias);
  }
  void Norm(const std::string& name, bool has_bias) {
    Add(name + ".weight", {d_model_}, kOne);
    if (has_bias) Add(name + ".bias", {d_model_}, kBias);
  }
  void Add(const std::string& name, std::vector<int64_t> shape, Range range) {
    places_[name] = {std::move(shape), range};
  }

  const int64_t d_model_;
  const DataType matrices_;
  std::map<std::string, Place, std::less<>> places_;
};

// `bytes` of values of `type`, a prime number of different ones over and over.
std::vector<char> RandomValues(Range range, DataType type, size_t bytes) {
  constexpr size_t kDifferent = 1'048'573;
  const size_t width = DataTypeBytes(type);
  std::vector<char> values(bytes);
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(range.low, range.high);
  const size_t first = std::min(bytes / width, kDifferent);
  for (size_t i = 0; i < first; ++i) {
    const float value = range.low < range.high ? uniform(random) : range.low;
    const uint16_t narrow = type == DataType::kBFloat16
                                ? NarrowToBFloat16(value)
                                : NarrowToFloat16(value);
    const void* const source =
        type == DataType::kFloat32 ? static_cast<const void*>(&value) : &narrow;
    std::memcpy(&values[i * width], source, width);
  }
  for (size_t done = first * width; done < bytes;) {
    const size_t count = std::min(bytes - done, first * width);
    std::memcpy(&values[done], values.data(), count);
    done += count;
  }
  return values;
}

// A checkpoint whose tensors are parts of one block for each range and type.
class RandomCheckpoint final : public Checkpoint {
 public:
  RandomCheckpoint(std::string name,
                   std::map<std::string, Place, std::less<>> places)
      : name_(std::move(name)), places_(std::move(places)) {
    std::map<std::pair<Range, DataType>, size_t> bytes;
    for (const auto& [tensor, place] : places_) {
      size_t& most = bytes[{place.range, place.type}];
      most = std::max(most, Bytes(place) + kShiftBytes * kShifts);
    }
    for (const auto& [kind, most] : bytes) {
      blocks_[kind] = RandomValues(kind.first, kind.second, most);
    }
  }

  bool Has(std::string_view name) const override {
    return places_.find(name) != places_.end();
  }
  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    for (const auto& [name, place] : places_) names.push_back(name);
    return names;
  }
  absl::StatusOr<Tensor> Get(std::string_view name) const override {
    const auto found = places_.find(name);
    if (found == places_.end()) {
      return absl::DataLossError(
          absl::StrCat(name_, " has no tensor ", std::string(name)));
    }
    const Place& place = found->second;
    // Neighbours begin at different places.
    const size_t shift = std::hash<std::string_view>()(name) % kShifts;
    const std::vector<char>& block = blocks_.at({place.range, place.type});
    return Tensor{place.type, place.shape, &block[shift * kShiftBytes]};
  }
  absl::StatusOr<Tensor> Get(std::string_view name,
                             const std::vector<int64_t>& shape) const override {
    ENGRAM_ASSIGN_OR_RETURN(const Tensor tensor, Get(name));
    if (tensor.shape == shape) return tensor;
    return absl::DataLossError(absl::StrCat(
        name_, ": tensor ", std::string(name), " has shape ",
        ShapeToString(tensor.shape), ", expected ", ShapeToString(shape)));
  }
  absl::StatusOr<const void*> Data(
      std::string_view name, std::string_view type,
      const std::vector<int64_t>& shape) const override {
    ENGRAM_ASSIGN_OR_RETURN(const Tensor tensor, Get(name, shape));
    if (type == DataTypeName(tensor.type)) return tensor.data;
    return absl::DataLossError(absl::StrCat(
        name_, ": tensor ", std::string(name), " is no ", std::string(type)));
  }
  std::string Hash() const override { return "random"; }

 private:
  static constexpr size_t kShifts = 61;
  static constexpr size_t kShiftBytes = 1024;

  static size_t Bytes(const Place& place) {
    return Tensor{place.type, place.shape}.elements() *
           DataTypeBytes(place.type);
  }

  const std::string name_;
  const std::map<std::string, Place, std::less<>> places_;
  std::map<std::pair<Range, DataType>, std::vector<char>> blocks_;
};

}  // namespace

std::vector<std::string> RandomModelShapes() {
  std::vector<std::string> names;
  for (const Shape& shape : Shapes()) names.push_back(shape.name);
  return names;
}

absl::StatusOr<std::unique_ptr<ModelFolder>> RandomModel(
    const std::string& shape, DataType type, const RandomModelCut& cut) {
  for (Shape known : Shapes()) {
    if (known.name != shape) continue;
    Cut(cut, &known);
    const std::string name = absl::StrCat("random ", shape);
    ENGRAM_ASSIGN_OR_RETURN(ModelConfig config,
                            ParseModelConfig(ConfigText(known), "", name));
    return ModelFolder::Of(
        name, std::move(config),
        std::make_unique<RandomCheckpoint>(name, Places(known, type).Take()));
  }
  return absl::NotFoundError(
      absl::StrCat("no shape is called \"", shape, "\"; there are ",
                   absl::StrJoin(RandomModelShapes(), ", ")));
}

}  // namespace engram

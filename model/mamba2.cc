#include "model/mamba2.h"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

// Components of the state, by their index in the pool.
enum Component { kConvState, kSsmState };

struct Dimensions {
  int64_t layers = 0;
  int64_t d_model = 0;
  int64_t heads = 0;
  int64_t groups = 0;
  int64_t head_dim = 0;
  int64_t d_state = 0;
  int64_t d_conv = 0;

  int64_t d_inner() const { return heads * head_dim; }
  // B of all groups, or C.
  int64_t group_states() const { return groups * d_state; }
  // Channels of the convolution: x, B and C side by side.
  int64_t convolved() const { return d_inner() + 2 * group_states(); }
  // Outputs of in_proj: z, x, B, C and dt side by side.
  int64_t projected() const { return d_inner() + convolved() + heads; }
};

struct Layer {
  std::unique_ptr<Buffer> norm;            // [d_model]
  std::unique_ptr<PackedWeight> in_proj;   // [projected, d_model]
  std::unique_ptr<Buffer> in_proj_bias;    // [projected] or nullptr
  std::unique_ptr<Buffer> conv_weight;     // [d_conv, convolved]
  std::unique_ptr<Buffer> conv_bias;       // [convolved] or nullptr
  std::unique_ptr<Buffer> dt_bias;         // [heads]
  std::unique_ptr<Buffer> a;               // [heads]
  std::unique_ptr<Buffer> d;               // [heads]
  std::unique_ptr<Buffer> gated_norm;      // [d_inner] or nullptr
  std::unique_ptr<PackedWeight> out_proj;  // [d_model, d_inner]
  std::unique_ptr<Buffer> out_proj_bias;   // [d_model] or nullptr
};

// Activations of one layer, for the most tokens that a step can have.
struct WorkBuffers {
  std::unique_ptr<Buffer> projected;  // [tokens, projected]
  // [tokens, convolved]; its x becomes the scan's y, and that the gated norm.
  std::unique_ptr<Buffer> convolved;
};

// How x, B and C are divided into heads and groups no tensor tells: these
// numbers are the configuration's, and the tensors must agree.
absl::StatusOr<Dimensions> ReadDimensions(const ModelConfig& config,
                                          const WeightLoader& loader) {
  Dimensions dimensions;
  dimensions.layers = config.layers;
  dimensions.d_model = config.d_model;
  dimensions.heads = config.mamba2.heads;
  dimensions.groups = config.mamba2.groups;
  dimensions.head_dim = config.mamba2.head_dim;
  dimensions.d_state = config.d_state;
  ENGRAM_ASSIGN_OR_RETURN(
      dimensions.d_conv,
      loader.ConvolutionTaps(LayerTensorName(0, "mixer.conv1d.weight")));
  return dimensions;
}

// A known variant has one D per channel instead of per head.
absl::Status RefuseDPerChannel(const std::string& name,
                               const Dimensions& dimensions,
                               const WeightLoader& loader) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> shape,
                          loader.Shape(name, 1));
  if (shape[0] == dimensions.heads || shape[0] != dimensions.d_inner()) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat(loader.folder(), ": tensor ", name, " has ", shape[0],
                   " elements, one per channel; supported: one per head, ",
                   dimensions.heads));
}

absl::StatusOr<Layer> LoadLayer(int64_t index, const Dimensions& dimensions,
                                const ModelConfig& config,
                                WeightLoader* loader) {
  const int64_t d_model = dimensions.d_model;
  const int64_t d_inner = dimensions.d_inner();
  const int64_t heads = dimensions.heads;
  const auto name = [index](const char* tensor) {
    return LayerTensorName(index, tensor);
  };
  Layer layer;
  ENGRAM_ASSIGN_OR_RETURN(layer.norm,
                          loader->Vector(name("norm.weight"), {d_model}));
  ENGRAM_ASSIGN_OR_RETURN(std::vector<float> a,
                          loader->Values(name("mixer.A_log"), {heads}));
  // After widening: exp of a 16-bit A_log in 16 bits could be infinite.
  for (float& value : a) value = -std::exp(value);
  ENGRAM_ASSIGN_OR_RETURN(layer.a, loader->Upload(a));
  ENGRAM_RETURN_IF_ERROR(
      RefuseDPerChannel(name("mixer.D"), dimensions, *loader));
  ENGRAM_ASSIGN_OR_RETURN(layer.d, loader->Vector(name("mixer.D"), {heads}));
  ENGRAM_ASSIGN_OR_RETURN(layer.dt_bias,
                          loader->Vector(name("mixer.dt_bias"), {heads}));
  ENGRAM_ASSIGN_OR_RETURN(layer.in_proj,
                          loader->Matrix(name("mixer.in_proj.weight"),
                                         dimensions.projected(), d_model));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.in_proj_bias,
      loader->OptionalVector(name("mixer.in_proj.bias"),
                             {dimensions.projected()}, config.projection_bias));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.conv_weight,
      loader->Convolution(name("mixer.conv1d.weight"), dimensions.convolved(),
                          dimensions.d_conv));
  ENGRAM_ASSIGN_OR_RETURN(layer.conv_bias,
                          loader->OptionalVector(name("mixer.conv1d.bias"),
                                                 {dimensions.convolved()},
                                                 config.convolution_bias));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.gated_norm,
      loader->OptionalVector(name("mixer.norm.weight"), {d_inner},
                             config.mamba2.gated_norm));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.out_proj,
      loader->Matrix(name("mixer.out_proj.weight"), d_model, d_inner));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.out_proj_bias,
      loader->OptionalVector(name("mixer.out_proj.bias"), {d_model},
                             config.projection_bias));
  return layer;
}

absl::StatusOr<WorkBuffers> AllocateWorkBuffers(const Dimensions& dimensions,
                                                const ModelLimits& limits,
                                                Backend* backend) {
  const auto allocate = [backend, &limits](int64_t width) {
    return backend->Allocate(limits.max_batch_tokens * width * sizeof(float));
  };
  WorkBuffers work;
  ENGRAM_ASSIGN_OR_RETURN(work.projected, allocate(dimensions.projected()));
  ENGRAM_ASSIGN_OR_RETURN(work.convolved, allocate(dimensions.convolved()));
  return work;
}

class Mamba2 final : public LayerStack {
 public:
  Mamba2(Backend* backend, const Dimensions& dimensions,
         const ModelConfig& config, std::vector<Layer> layers, WorkBuffers work)
      : backend_(backend),
        dimensions_(dimensions),
        norm_epsilon_(config.norm_epsilon),
        dt_min_(config.mamba2.dt_min),
        dt_max_(config.mamba2.dt_max),
        layers_(std::move(layers)),
        work_(std::move(work)) {}

  std::vector<StateComponent> StateComponents() const override {
    return {{"conv_state",
             dimensions_.layers,
             {dimensions_.d_conv - 1, dimensions_.convolved()}},
            {"ssm_state",
             dimensions_.layers,
             {dimensions_.heads, dimensions_.d_state, dimensions_.head_dim}}};
  }
  void RunLayer(int64_t index, const LayerStep& step) override;

 private:
  // From x, B and C in `convolved` and dt in `projected` to y in place of x.
  void Scan(const Layer& layer, int64_t index, const LayerStep& step,
            ConstMatrix projected, Matrix convolved);

  Backend* const backend_;
  const Dimensions dimensions_;
  const float norm_epsilon_;
  const float dt_min_;
  const float dt_max_;
  const std::vector<Layer> layers_;
  const WorkBuffers work_;
};

void Mamba2::Scan(const Layer& layer, int64_t index, const LayerStep& step,
                  ConstMatrix projected, Matrix convolved) {
  const int64_t d_inner = dimensions_.d_inner();
  SsdScanArguments scan;
  scan.heads = dimensions_.heads;
  scan.groups = dimensions_.groups;
  scan.head_dim = dimensions_.head_dim;
  scan.d_state = dimensions_.d_state;
  scan.x = convolved;
  scan.dt = {projected.data + d_inner + dimensions_.convolved(),
             projected.stride};
  scan.b = {convolved.data + d_inner, convolved.stride};
  scan.c = {scan.b.data + dimensions_.group_states(), convolved.stride};
  scan.dt_bias = layer.dt_bias->floats();
  scan.a = layer.a->floats();
  scan.d = layer.d->floats();
  scan.dt_min = dt_min_;
  scan.dt_max = dt_max_;
  scan.ssm_state = step.states->Layer(kSsmState, index);
  scan.y = convolved;
  backend_->SsdScan(step.rows, scan);
}

void Mamba2::RunLayer(int64_t index, const LayerStep& step) {
  const Layer& layer = layers_[index];
  const int64_t d_inner = dimensions_.d_inner();
  const Matrix projected = {work_.projected->floats(), dimensions_.projected()};
  const Matrix convolved = {work_.convolved->floats(), dimensions_.convolved()};

  backend_->Norm(RmsNorm(*layer.norm, norm_epsilon_), step.tokens,
                 dimensions_.d_model, step.residual.data, step.normed.data);
  MatMulOptions in_options;
  in_options.bias = FloatsOrNull(layer.in_proj_bias);
  backend_->MatMul(*layer.in_proj, step.tokens, step.normed, in_options,
                   projected);
  CausalConv1dArguments convolution;
  convolution.channels = dimensions_.convolved();
  convolution.d_conv = dimensions_.d_conv;
  convolution.x = {projected.data + d_inner, projected.stride};
  convolution.weight = layer.conv_weight->floats();
  convolution.bias = FloatsOrNull(layer.conv_bias);
  convolution.conv_state = step.states->Layer(kConvState, index);
  convolution.y = convolved;
  backend_->CausalConv1d(step.rows, convolution);
  Scan(layer, index, step, projected, convolved);

  GatedNormArguments norm;
  norm.tokens = step.tokens;
  norm.d_inner = d_inner;
  norm.groups = dimensions_.groups;
  norm.y = convolved;
  norm.z = projected;
  norm.weight = FloatsOrNull(layer.gated_norm);
  norm.epsilon = norm_epsilon_;
  norm.normed = convolved;
  backend_->GatedNorm(norm);
  MatMulOptions out_options;
  out_options.bias = FloatsOrNull(layer.out_proj_bias);
  out_options.accumulate = true;
  backend_->MatMul(*layer.out_proj, step.tokens, convolved, out_options,
                   step.residual);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LayerStack>> LoadMamba2Layers(
    const ModelConfig& config, const ModelLimits& limits, Backend* backend,
    WeightLoader* loader) {
  ENGRAM_ASSIGN_OR_RETURN(const Dimensions dimensions,
                          ReadDimensions(config, *loader));
  std::vector<Layer> layers;
  for (int64_t i = 0; i < dimensions.layers; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(Layer layer,
                            LoadLayer(i, dimensions, config, loader));
    layers.push_back(std::move(layer));
  }
  ENGRAM_ASSIGN_OR_RETURN(WorkBuffers work,
                          AllocateWorkBuffers(dimensions, limits, backend));
  return std::make_unique<Mamba2>(backend, dimensions, config,
                                  std::move(layers), std::move(work));
}

}  // namespace engram

#include "model/mamba.h"

#include <cmath>
#include <utility>
#include <vector>

#include "kernels/status.h"
#include "model/weight_loader.h"

namespace engram {
namespace {

// Components of the state, by their index in the pool.
enum Component { kConvState, kSsmState };

struct Dimensions {
  int64_t layers = 0;
  int64_t d_model = 0;
  int64_t d_inner = 0;
  int64_t d_state = 0;
  int64_t d_conv = 0;
  int64_t dt_rank = 0;

  // Outputs of x_proj: dt, B and C side by side.
  int64_t scan_inputs() const { return dt_rank + 2 * d_state; }
};

struct Layer {
  std::unique_ptr<Buffer> norm;            // [d_model]
  std::unique_ptr<PackedWeight> in_proj;   // [2 d_inner, d_model], x then z
  std::unique_ptr<Buffer> in_proj_bias;    // [2 d_inner] or nullptr
  std::unique_ptr<Buffer> conv_weight;     // [d_conv, d_inner]
  std::unique_ptr<Buffer> conv_bias;       // [d_inner] or nullptr
  std::unique_ptr<PackedWeight> x_proj;    // [dt_rank + 2 d_state, d_inner]
  std::unique_ptr<PackedWeight> dt_proj;   // [d_inner, dt_rank]
  std::unique_ptr<Buffer> dt_bias;         // [d_inner]
  std::unique_ptr<Buffer> a;               // [d_state, d_inner]
  std::unique_ptr<Buffer> d;               // [d_inner]
  std::unique_ptr<PackedWeight> out_proj;  // [d_model, d_inner]
  std::unique_ptr<Buffer> out_proj_bias;   // [d_model] or nullptr
};

// Activations of one layer, for the most tokens that a step can have.
struct WorkBuffers {
  std::unique_ptr<Buffer> projected;    // [tokens, 2 d_inner], x then z
  std::unique_ptr<Buffer> convolved;    // [tokens, d_inner], then the scan's y
  std::unique_ptr<Buffer> scan_inputs;  // [tokens, dt_rank + 2 d_state]
  std::unique_ptr<Buffer> dt;           // [tokens, d_inner]
};

// The widths of the mixer come from the tensors of layer 0, because configs in
// the wild are wrong about them; every other tensor must then agree.
absl::StatusOr<Dimensions> ReadDimensions(const ModelConfig& config,
                                          const WeightLoader& loader) {
  Dimensions dimensions;
  dimensions.layers = config.layers;
  dimensions.d_model = config.d_model;
  ENGRAM_ASSIGN_OR_RETURN(const auto a_log,
                          loader.Shape(LayerTensorName(0, "mixer.A_log"), 2));
  ENGRAM_ASSIGN_OR_RETURN(
      dimensions.d_conv,
      loader.ConvolutionTaps(LayerTensorName(0, "mixer.conv1d.weight")));
  ENGRAM_ASSIGN_OR_RETURN(
      const auto dt_proj,
      loader.Shape(LayerTensorName(0, "mixer.dt_proj.weight"), 2));
  dimensions.d_inner = a_log[0];
  dimensions.d_state = a_log[1];
  dimensions.dt_rank = dt_proj[1];
  return dimensions;
}

absl::StatusOr<Layer> LoadLayer(int64_t index, const Dimensions& dimensions,
                                const ModelConfig& config,
                                WeightLoader* loader) {
  const auto [layers, d_model, d_inner, d_state, d_conv, dt_rank] = dimensions;
  const auto name = [index](const char* tensor) {
    return LayerTensorName(index, tensor);
  };
  Layer layer;
  ENGRAM_ASSIGN_OR_RETURN(layer.norm,
                          loader->Vector(name("norm.weight"), {d_model}));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.in_proj,
      loader->Matrix(name("mixer.in_proj.weight"), 2 * d_inner, d_model));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.in_proj_bias,
      loader->OptionalVector(name("mixer.in_proj.bias"), {2 * d_inner},
                             config.projection_bias));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.conv_weight,
      loader->Convolution(name("mixer.conv1d.weight"), d_inner, d_conv));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.conv_bias,
      loader->OptionalVector(name("mixer.conv1d.bias"), {d_inner},
                             config.convolution_bias));
  ENGRAM_ASSIGN_OR_RETURN(layer.x_proj,
                          loader->Matrix(name("mixer.x_proj.weight"),
                                         dimensions.scan_inputs(), d_inner));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.dt_proj,
      loader->Matrix(name("mixer.dt_proj.weight"), d_inner, dt_rank));
  ENGRAM_ASSIGN_OR_RETURN(
      layer.dt_bias, loader->Vector(name("mixer.dt_proj.bias"), {d_inner}));
  ENGRAM_ASSIGN_OR_RETURN(
      std::vector<float> a,
      loader->Values(name("mixer.A_log"), {d_inner, d_state}));
  // After widening: exp of a 16-bit A_log in 16 bits could be infinite.
  for (float& value : a) value = -std::exp(value);
  ENGRAM_ASSIGN_OR_RETURN(layer.a,
                          loader->Upload(Transposed(a, d_inner, d_state)));
  ENGRAM_ASSIGN_OR_RETURN(layer.d, loader->Vector(name("mixer.D"), {d_inner}));
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
  ENGRAM_ASSIGN_OR_RETURN(work.projected, allocate(2 * dimensions.d_inner));
  ENGRAM_ASSIGN_OR_RETURN(work.convolved, allocate(dimensions.d_inner));
  ENGRAM_ASSIGN_OR_RETURN(work.scan_inputs, allocate(dimensions.scan_inputs()));
  ENGRAM_ASSIGN_OR_RETURN(work.dt, allocate(dimensions.d_inner));
  return work;
}

class Mamba final : public LayerStack {
 public:
  Mamba(Backend* backend, const Dimensions& dimensions, float norm_epsilon,
        std::vector<Layer> layers, WorkBuffers work)
      : backend_(backend),
        dimensions_(dimensions),
        norm_epsilon_(norm_epsilon),
        layers_(std::move(layers)),
        work_(std::move(work)) {}

  std::vector<StateComponent> StateComponents() const override {
    const auto [layers, d_model, d_inner, d_state, d_conv, dt_rank] =
        dimensions_;
    return {{"conv_state", layers, {d_conv - 1, d_inner}},
            {"ssm_state", layers, {d_state, d_inner}}};
  }
  void RunLayer(int64_t index, const LayerStep& step) override;

 private:
  Backend* const backend_;
  const Dimensions dimensions_;
  const float norm_epsilon_;
  const std::vector<Layer> layers_;
  const WorkBuffers work_;
};

void Mamba::RunLayer(int64_t index, const LayerStep& step) {
  const Layer& layer = layers_[index];
  const int64_t tokens = step.tokens;
  const int64_t d_inner = dimensions_.d_inner;
  const Matrix projected = {work_.projected->floats(), 2 * d_inner};
  const Matrix convolved = {work_.convolved->floats(), d_inner};
  const Matrix scan_inputs = {work_.scan_inputs->floats(),
                              dimensions_.scan_inputs()};
  const Matrix dt = {work_.dt->floats(), d_inner};

  backend_->Norm(RmsNorm(*layer.norm, norm_epsilon_), tokens,
                 dimensions_.d_model, step.residual.data, step.normed.data);
  MatMulOptions in_options;
  in_options.bias = FloatsOrNull(layer.in_proj_bias);
  backend_->MatMul(*layer.in_proj, tokens, step.normed, in_options, projected);
  CausalConv1dArguments convolution;
  convolution.channels = d_inner;
  convolution.d_conv = dimensions_.d_conv;
  convolution.x = projected;
  convolution.weight = layer.conv_weight->floats();
  convolution.bias = FloatsOrNull(layer.conv_bias);
  convolution.conv_state = step.states->Layer(kConvState, index);
  convolution.y = convolved;
  backend_->CausalConv1d(step.rows, convolution);
  backend_->MatMul(*layer.x_proj, tokens, convolved, {}, scan_inputs);
  backend_->MatMul(*layer.dt_proj, tokens, scan_inputs, {}, dt);

  SelectiveScanArguments scan;
  scan.d_inner = d_inner;
  scan.d_state = dimensions_.d_state;
  scan.x = convolved;
  scan.dt = dt;
  scan.b = {scan_inputs.data + dimensions_.dt_rank, scan_inputs.stride};
  scan.c = {scan.b.data + dimensions_.d_state, scan_inputs.stride};
  scan.z = {projected.data + d_inner, projected.stride};
  scan.dt_bias = layer.dt_bias->floats();
  scan.a = layer.a->floats();
  scan.d = layer.d->floats();
  scan.ssm_state = step.states->Layer(kSsmState, index);
  scan.y = convolved;
  backend_->SelectiveScan(step.rows, scan);

  MatMulOptions out_options;
  out_options.bias = FloatsOrNull(layer.out_proj_bias);
  out_options.accumulate = true;
  backend_->MatMul(*layer.out_proj, tokens, convolved, out_options,
                   step.residual);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LayerStack>> LoadMambaLayers(
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
  return std::make_unique<Mamba>(backend, dimensions, config.norm_epsilon,
                                 std::move(layers), std::move(work));
}

}  // namespace engram

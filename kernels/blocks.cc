// Blocks composed of the operations that there are anyway, for back ends that
// have nothing better. Between two operations a matrix lies in the scratch; one
// that is read for the last time where the next is written gives it its place.
#include "kernels/blocks.h"

#include <algorithm>
#include <cstddef>

#include "kernels/backend.h"
#include "kernels/block_arguments.h"
#include "kernels/block_scratch.h"
#include "kernels/status.h"

namespace engram {
namespace {

// One block's calls, which have all the same step and residual.
class Composition {
 public:
  Composition(Backend* backend, const StepRows& step, int64_t d_model,
              float* residual)
      : backend_(*backend),
        step_(step),
        d_model_(d_model),
        residual_(residual) {}

  void Norm(const NormWeights& norm, Matrix normed) {
    backend_.Norm(norm, step_.tokens(), d_model_, residual_, normed);
  }
  void Product(const LinearWeights& linear, ConstMatrix x, Matrix y,
               Activation activation = Activation::kNone) {
    MatMulOptions options;
    options.bias = linear.bias;
    options.activation = activation;
    backend_.MatMul(*linear.weight, step_.tokens(), x, options, y);
  }
  void AddProduct(const LinearWeights& linear, ConstMatrix x) {
    MatMulOptions options;
    options.bias = linear.bias;
    options.accumulate = true;
    backend_.MatMul(*linear.weight, step_.tokens(), x, options,
                    {residual_, d_model_});
  }
  void Convolution(const ConvolutionWeights& convolution, int64_t channels,
                   Activation activation, LayerShares state, ConstMatrix x,
                   Matrix y) {
    CausalConv1dArguments arguments;
    arguments.channels = channels;
    arguments.d_conv = convolution.taps;
    arguments.x = x;
    arguments.weight = convolution.weight;
    arguments.bias = convolution.bias;
    arguments.activation = activation;
    arguments.conv_state = state;
    arguments.y = y;
    backend_.CausalConv1d(step_, arguments);
  }

 private:
  Backend& backend_;
  const StepRows& step_;
  const int64_t d_model_;
  float* const residual_;
};

void CheckLinear(const LinearWeights& linear, int64_t outputs, int64_t inputs) {
  ENGRAM_CHECK(linear.weight != nullptr);
  ENGRAM_CHECK(linear.weight->outputs() == outputs);
  ENGRAM_CHECK(linear.weight->inputs() == inputs);
}

void CheckNorm(const NormWeights& norm) {
  ENGRAM_CHECK(norm.weight != nullptr);
  ENGRAM_CHECK(norm.kind == NormKind::kRms || norm.bias != nullptr);
}

void CheckConvolution(const ConvolutionWeights& convolution, int64_t channels,
                      LayerShares state) {
  ENGRAM_CHECK(convolution.taps >= 1 && convolution.weight != nullptr);
  ENGRAM_CHECK(state.stride >= (convolution.taps - 1) * channels);
}

void CheckDiagonalSsm(const DiagonalSsmWeights& ssm, int64_t channels,
                      LayerShares state) {
  ENGRAM_CHECK(ssm.pairs >= 1);
  ENGRAM_CHECK(ssm.decay != nullptr && ssm.read != nullptr && ssm.d != nullptr);
  ENGRAM_CHECK(state.stride >= 2 * ssm.pairs * channels);
}

}  // namespace

absl::Status Backend::ReserveSteps(const LargestStep& largest) {
  const LargestStep most = reserved_.MostOf(largest);
  const size_t bytes = most.scratch_bytes();
  if (bytes > (scratch_ == nullptr ? 0 : scratch_->bytes())) {
    ENGRAM_ASSIGN_OR_RETURN(scratch_, Allocate(bytes));
  }
  ENGRAM_RETURN_IF_ERROR(DoReserveSteps(most));
  reserved_ = most;
  return absl::OkStatus();
}

float* Backend::Scratch(const StepRows& step, int64_t floats) {
  const size_t bytes = ScratchTokens(step.tokens()) * floats * sizeof(float);
  ENGRAM_CHECK(scratch_ != nullptr && scratch_->bytes() >= bytes);
  return scratch_->floats();
}

// --- Mamba.

int64_t MambaBlockArguments::ScratchFloats() const {
  return AlignedFloats(d_model()) + AlignedFloats(2 * d_inner) +
         AlignedFloats(d_inner) + AlignedFloats(scan_inputs()) +
         AlignedFloats(d_inner);
}

void Backend::MambaBlock(const StepRows& step, const MambaBlockArguments& block,
                         float* residual) {
  const int64_t d_inner = block.d_inner;
  ENGRAM_CHECK(d_inner >= 1 && block.d_state >= 1 && block.dt_rank >= 1);
  CheckNorm(block.norm);
  CheckLinear(block.in_proj, 2 * d_inner, block.d_model());
  CheckConvolution(block.convolution, d_inner, block.conv_state);
  CheckLinear(block.x_proj, block.scan_inputs(), d_inner);
  CheckLinear(block.dt_proj, d_inner, block.dt_rank);
  CheckLinear(block.out_proj, block.d_model(), d_inner);
  ENGRAM_CHECK(block.ssm_state.stride >= block.d_state * d_inner);
  DoMambaBlock(step, block, residual);
}

void Backend::DoMambaBlock(const StepRows& step,
                           const MambaBlockArguments& block, float* residual) {
  BlockScratch parts(Scratch(step, block.ScratchFloats()), step.tokens());
  const Matrix normed = parts.Take(block.d_model());
  const Matrix projected = parts.Take(2 * block.d_inner);
  const Matrix convolved = parts.Take(block.d_inner);
  const Matrix scan_inputs = parts.Take(block.scan_inputs());
  const Matrix dt = parts.Take(block.d_inner);

  Composition composition(this, step, block.d_model(), residual);
  composition.Norm(block.norm, normed);
  composition.Product(block.in_proj, normed, projected);
  composition.Convolution(block.convolution, block.d_inner, Activation::kSilu,
                          block.conv_state, projected, convolved);
  composition.Product(block.x_proj, convolved, scan_inputs);
  composition.Product(block.dt_proj, scan_inputs, dt);
  SelectiveScan(step, ScanOf(block, projected, convolved, scan_inputs, dt));
  composition.AddProduct(block.out_proj, convolved);
}

// --- Mamba-2.

int64_t Mamba2BlockArguments::ScratchFloats() const {
  return AlignedFloats(normed_floats()) + AlignedFloats(projected()) +
         AlignedFloats(convolved());
}
int64_t Mamba2BlockArguments::normed_floats() const {
  return std::max(d_model(), SsdRoomFloats(groups, d_state));
}

void Backend::Mamba2Block(const StepRows& step,
                          const Mamba2BlockArguments& block, float* residual) {
  ENGRAM_CHECK(block.groups >= 1 && block.heads >= 1 &&
               block.heads % block.groups == 0);
  ENGRAM_CHECK(block.head_dim >= 1 && block.d_state >= 1);
  CheckNorm(block.norm);
  CheckLinear(block.in_proj, block.projected(), block.d_model());
  CheckConvolution(block.convolution, block.convolved(), block.conv_state);
  CheckLinear(block.out_proj, block.d_model(), block.d_inner());
  ENGRAM_CHECK(block.ssm_state.stride >= block.d_inner() * block.d_state);
  DoMamba2Block(step, block, residual);
}

void Backend::DoMamba2Block(const StepRows& step,
                            const Mamba2BlockArguments& block,
                            float* residual) {
  BlockScratch parts(Scratch(step, block.ScratchFloats()), step.tokens());
  const Matrix room = parts.Take(block.normed_floats());
  const Matrix normed = {room.data, block.d_model()};
  const Matrix projected = parts.Take(block.projected());
  const Matrix convolved = parts.Take(block.convolved());

  Composition composition(this, step, block.d_model(), residual);
  composition.Norm(block.norm, normed);
  composition.Product(block.in_proj, normed, projected);
  composition.Convolution(block.convolution, block.convolved(),
                          Activation::kSilu, block.conv_state,
                          ColumnsFrom(projected, block.d_inner()), convolved);
  SsdScanArguments scan = ScanOf(block, projected, convolved);
  scan.room = room.floats();
  SsdScan(step, scan);
  GatedNorm(GatedNormOf(block, step.tokens(), convolved, projected));
  composition.AddProduct(block.out_proj, convolved);
}

// --- H3 and S4D.

int64_t H3BlockArguments::ScratchFloats() const {
  return 4 * AlignedFloats(d_model());
}

void Backend::H3Block(const StepRows& step, const H3BlockArguments& block,
                      float* residual) {
  const int64_t d_model = block.d_model();
  CheckNorm(block.norm);
  for (const LinearWeights* linear :
       {&block.q_proj, &block.k_proj, &block.v_proj, &block.output}) {
    CheckLinear(*linear, d_model, d_model);
  }
  ENGRAM_CHECK(block.taps >= 1 && block.filter != nullptr);
  ENGRAM_CHECK(block.shift_state.stride >= (block.taps - 1) * d_model);
  CheckDiagonalSsm(block.ssm, d_model, block.diagonal_state);
  DoH3Block(step, block, residual);
}

void Backend::DoH3Block(const StepRows& step, const H3BlockArguments& block,
                        float* residual) {
  const int64_t d_model = block.d_model();
  BlockScratch parts(Scratch(step, block.ScratchFloats()), step.tokens());
  const Matrix normed = parts.Take(d_model);
  const Matrix q = parts.Take(d_model);
  const Matrix k = parts.Take(d_model);
  const Matrix v = parts.Take(d_model);

  Composition composition(this, step, d_model, residual);
  composition.Norm(block.norm, normed);
  composition.Product(block.q_proj, normed, q);
  composition.Product(block.k_proj, normed, k);
  composition.Product(block.v_proj, normed, v);
  ShiftMultiply(step, ShiftOf(block, k, v));
  DiagonalScan(step, ScanOf(block, q, v));
  composition.AddProduct(block.output, v);
}

int64_t S4dBlockArguments::ScratchFloats() const {
  return 2 * AlignedFloats(d_model());
}

void Backend::S4dBlock(const StepRows& step, const S4dBlockArguments& block,
                       float* residual) {
  CheckNorm(block.norm);
  CheckDiagonalSsm(block.ssm, block.d_model(), block.diagonal_state);
  CheckLinear(block.output, block.d_model(), block.d_model());
  DoS4dBlock(step, block, residual);
}

void Backend::DoS4dBlock(const StepRows& step, const S4dBlockArguments& block,
                         float* residual) {
  BlockScratch parts(Scratch(step, block.ScratchFloats()), step.tokens());
  const Matrix normed = parts.Take(block.d_model());
  const Matrix scanned = parts.Take(block.d_model());

  Composition composition(this, step, block.d_model(), residual);
  composition.Norm(block.norm, normed);
  DiagonalScan(step, ScanOf(block, normed, scanned));
  composition.AddProduct(block.output, scanned);
}

// --- Attention.

int64_t AttentionBlockArguments::ScratchFloats() const {
  const int64_t qkv_floats = AlignedFloats(qkv_width());
  return AlignedFloats(d_model()) +
         (convolution.taps > 0 ? 2 * qkv_floats : qkv_floats);
}

void Backend::AttentionBlock(const StepRows& step,
                             const AttentionBlockArguments& block,
                             float* residual) {
  ENGRAM_CHECK(block.heads >= 1 && block.head_dim >= 1);
  ENGRAM_CHECK(block.kv_heads >= 1 && block.heads % block.kv_heads == 0);
  ENGRAM_CHECK(step.has_blocks() || step.rows().empty());
  CheckNorm(block.norm);
  CheckLinear(block.qkv, block.qkv_width(), block.d_model());
  if (block.convolution.taps > 0) {
    CheckConvolution(block.convolution, block.qkv_width(), block.conv_state);
  }
  CheckLinear(block.output, block.d_model(), block.q_width());
  ENGRAM_CHECK(block.blocks.stride >=
               2 * block.kv_width() * kKeyValueBlockTokens);
  DoAttentionBlock(step, block, residual);
}

void Backend::DoAttentionBlock(const StepRows& step,
                               const AttentionBlockArguments& block,
                               float* residual) {
  BlockScratch parts(Scratch(step, block.ScratchFloats()), step.tokens());
  const Matrix normed = parts.Take(block.d_model());
  Matrix qkv = parts.Take(block.qkv_width());

  Composition composition(this, step, block.d_model(), residual);
  composition.Norm(block.norm, normed);
  composition.Product(block.qkv, normed, qkv);
  if (block.convolution.taps > 0) {
    const Matrix convolved = parts.Take(block.qkv_width());
    composition.Convolution(block.convolution, block.qkv_width(),
                            Activation::kNone, block.conv_state, qkv,
                            convolved);
    qkv = convolved;
  }
  Attention(step, AttentionOf(block, qkv));
  composition.AddProduct(block.output, qkv);
}

// --- MLP.

int64_t MlpBlockArguments::ScratchFloats() const {
  return AlignedFloats(d_model()) + AlignedFloats(fc1.weight->outputs());
}

void Backend::MlpBlock(const StepRows& step, const MlpBlockArguments& block,
                       float* residual) {
  const int64_t width = block.width();
  CheckNorm(block.norm);
  CheckLinear(block.fc1, block.gated ? 2 * width : width, block.d_model());
  CheckLinear(block.fc2, block.d_model(), width);
  DoMlpBlock(step, block, residual);
}

void Backend::DoMlpBlock(const StepRows& step, const MlpBlockArguments& block,
                         float* residual) {
  BlockScratch parts(Scratch(step, block.ScratchFloats()), step.tokens());
  const Matrix normed = parts.Take(block.d_model());
  const Matrix hidden = parts.Take(block.fc1.weight->outputs());

  Composition composition(this, step, block.d_model(), residual);
  composition.Norm(block.norm, normed);
  if (block.gated) {
    composition.Product(block.fc1, normed, hidden);
    GatedNorm(GateOf(block, step.tokens(), hidden));
  } else {
    composition.Product(block.fc1, normed, hidden, Activation::kGeluTanh);
  }
  composition.AddProduct(block.fc2, hidden);
}

}  // namespace engram

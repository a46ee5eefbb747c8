#include "kernels/block_arguments.h"

#include "kernels/block_scratch.h"

namespace engram {
namespace {

DiagonalScanArguments ScanOf(const DiagonalSsmWeights& ssm, int64_t channels,
                             LayerShares state, ConstMatrix p, Matrix y) {
  DiagonalScanArguments scan;
  scan.channels = channels;
  scan.pairs = ssm.pairs;
  scan.p = p;
  scan.decay = ssm.decay;
  scan.read = ssm.read;
  scan.d = ssm.d;
  scan.diagonal_state = state;
  scan.y = y;
  return scan;
}

}  // namespace

SelectiveScanArguments ScanOf(const MambaBlockArguments& block,
                              Matrix projected, Matrix convolved,
                              Matrix scan_inputs, ConstMatrix dt) {
  SelectiveScanArguments scan;
  scan.d_inner = block.d_inner;
  scan.d_state = block.d_state;
  scan.x = convolved;
  scan.dt = dt;
  scan.b = ColumnsFrom(scan_inputs, block.dt_rank);
  scan.c = ColumnsFrom(scan_inputs, block.dt_rank + block.d_state);
  scan.z = ColumnsFrom(projected, block.d_inner);
  scan.dt_bias = block.dt_bias;
  scan.a = block.a;
  scan.d = block.d;
  scan.ssm_state = block.ssm_state;
  scan.y = convolved;
  return scan;
}

SsdScanArguments ScanOf(const Mamba2BlockArguments& block, Matrix projected,
                        Matrix convolved) {
  const int64_t d_inner = block.d_inner();
  SsdScanArguments scan;
  scan.heads = block.heads;
  scan.groups = block.groups;
  scan.head_dim = block.head_dim;
  scan.d_state = block.d_state;
  scan.x = convolved;
  scan.dt = ColumnsFrom(projected, d_inner + block.convolved());
  scan.b = ColumnsFrom(convolved, d_inner);
  scan.c = ColumnsFrom(convolved, d_inner + block.group_states());
  scan.dt_bias = block.dt_bias;
  scan.a = block.a;
  scan.d = block.d;
  scan.dt_min = block.dt_min;
  scan.dt_max = block.dt_max;
  scan.ssm_state = block.ssm_state;
  scan.y = convolved;
  return scan;
}

GatedNormArguments GatedNormOf(const Mamba2BlockArguments& block,
                               int64_t tokens, Matrix y, ConstMatrix z) {
  GatedNormArguments gate;
  gate.tokens = tokens;
  gate.d_inner = block.d_inner();
  gate.groups = block.groups;
  gate.y = y;
  gate.z = z;
  gate.weight = block.gated_norm;
  gate.epsilon = block.gated_norm_epsilon;
  gate.normed = y;
  return gate;
}

ShiftMultiplyArguments ShiftOf(const H3BlockArguments& block, ConstMatrix k,
                               Matrix v) {
  ShiftMultiplyArguments shift;
  shift.channels = block.d_model();
  shift.taps = block.taps;
  shift.k = k;
  shift.v = v;
  shift.filter = block.filter;
  shift.shift_state = block.shift_state;
  shift.p = v;
  return shift;
}

DiagonalScanArguments ScanOf(const H3BlockArguments& block, ConstMatrix gate,
                             Matrix p) {
  DiagonalScanArguments scan =
      ScanOf(block.ssm, block.d_model(), block.diagonal_state, p, p);
  scan.gate = gate;
  return scan;
}

DiagonalScanArguments ScanOf(const S4dBlockArguments& block, ConstMatrix p,
                             Matrix y) {
  DiagonalScanArguments scan =
      ScanOf(block.ssm, block.d_model(), block.diagonal_state, p, y);
  scan.activation = Activation::kGelu;
  return scan;
}

AttentionArguments AttentionOf(const AttentionBlockArguments& block,
                               Matrix qkv) {
  AttentionArguments attention;
  attention.heads = block.heads;
  attention.kv_heads = block.kv_heads;
  attention.head_dim = block.head_dim;
  attention.scale = block.scale;
  attention.rotary_dim = block.rotary_dim;
  attention.frequencies = block.frequencies;
  attention.q = qkv;
  attention.k = ColumnsFrom(qkv, block.q_width());
  attention.v = ColumnsFrom(qkv, block.q_width() + block.kv_width());
  attention.blocks = block.blocks;
  attention.y = qkv;
  return attention;
}

GatedNormArguments GateOf(const MlpBlockArguments& block, int64_t tokens,
                          Matrix hidden) {
  GatedNormArguments gate;
  gate.tokens = tokens;
  gate.d_inner = block.width();
  gate.y = hidden;
  gate.z = ColumnsFrom(hidden, block.width());
  gate.normed = hidden;
  return gate;
}

}  // namespace engram

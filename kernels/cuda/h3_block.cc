#include "kernels/cuda/h3_block.h"

#include "kernels/cuda/block_operations.h"
#include "kernels/cuda/h3_update.h"

namespace engram::cuda {
namespace {

ShiftMultiplyArguments ShiftOf(const H3BlockArguments& block, Matrix k,
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

DiagonalScanArguments ScanOf(const H3BlockArguments& block, Matrix p,
                             Matrix gate) {
  DiagonalScanArguments scan;
  scan.channels = block.d_model();
  scan.pairs = block.ssm.pairs;
  scan.p = p;
  scan.gate = gate;
  scan.decay = block.ssm.decay;
  scan.read = block.ssm.read;
  scan.d = block.ssm.d;
  scan.diagonal_state = block.diagonal_state;
  scan.y = p;
  return scan;
}

}  // namespace

cudaError_t H3Block(cudaStream_t stream, const StepTable& step,
                    const H3BlockArguments& block, BlockScratch scratch,
                    float* residual) {
  const int64_t d_model = block.d_model();
  const Matrix normed = scratch.Take(d_model);
  const Matrix q = scratch.Take(d_model);
  const Matrix k = scratch.Take(d_model);
  const Matrix v = scratch.Take(d_model);

  BlockOperations operations(stream, step, d_model, residual);
  operations.NormedProducts(
      block.norm, normed,
      {{block.q_proj, q}, {block.k_proj, k}, {block.v_proj, v}});
  operations.Note(
      H3Update(stream, step, {ShiftOf(block, k, v), ScanOf(block, v, q)}));
  operations.AddProduct(block.output, v);
  return operations.error();
}

}  // namespace engram::cuda

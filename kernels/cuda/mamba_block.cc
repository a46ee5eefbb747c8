#include "kernels/cuda/mamba_block.h"

#include "kernels/cuda/block_operations.h"
#include "kernels/cuda/mamba_update.h"
#include "kernels/cuda/packed_matrix.h"

namespace engram::cuda {
namespace {

// x | z in `projected`, delta | b | c in `scan_inputs`.
SelectiveScanArguments ScanOf(const MambaBlockArguments& block,
                              Matrix projected, Matrix scan_inputs) {
  SelectiveScanArguments scan;
  scan.d_inner = block.d_inner;
  scan.d_state = block.d_state;
  scan.x = projected;
  scan.b = ColumnsFrom(scan_inputs, block.dt_rank);
  scan.c = ColumnsFrom(scan_inputs, block.dt_rank + block.d_state);
  scan.z = ColumnsFrom(projected, block.d_inner);
  scan.dt_bias = block.dt_bias;
  scan.a = block.a;
  scan.d = block.d;
  scan.ssm_state = block.ssm_state;
  scan.y = projected;
  return scan;
}

}  // namespace

cudaError_t MambaBlock(cudaStream_t stream, const StepTable& step,
                       const MambaBlockArguments& block, BlockScratch scratch,
                       float* residual) {
  const Matrix normed = scratch.Take(block.d_model());
  const Matrix projected = scratch.Take(2 * block.d_inner);
  const Matrix scan_inputs = scratch.Take(block.scan_inputs());
  const Matrix dt = scratch.Take(block.d_inner);

  BlockOperations operations(stream, step, block.d_model(), residual);
  operations.NormedProducts(
      block.norm, normed, {{block.in_proj, projected}}, Activation::kNone,
      ConvolutionOf(step, block.convolution, 0, block.d_inner,
                    Activation::kSilu, block.conv_state));
  operations.Product(block.x_proj, projected, scan_inputs);
  MambaUpdateArguments update;
  update.dt_proj = ViewOf(*block.dt_proj.weight);
  update.dt_proj_bias = block.dt_proj.bias;
  update.delta = scan_inputs;
  update.scan = ScanOf(block, projected, scan_inputs);
  update.dt = dt;
  operations.Note(MambaUpdate(stream, step, update));
  operations.AddProduct(block.out_proj, projected);
  return operations.error();
}

}  // namespace engram::cuda

// The arguments of the operations that blocks are made of, for whoever computes
// a block: with everything that a block says of them and the matrices that they
// are given.
#pragma once

#include <cstdint>

#include "kernels/blocks.h"
#include "kernels/operations.h"

namespace engram {

// y takes the place of x, which is `convolved`. z lies behind the columns of x
// in `projected`, b and c behind those of dt in `scan_inputs`.
SelectiveScanArguments ScanOf(const MambaBlockArguments& block,
                              Matrix projected, Matrix convolved,
                              Matrix scan_inputs, ConstMatrix dt);

// y takes the place of x, in `convolved` with b and c behind it. dt is in
// `projected`, behind z and the columns of x, b and c.
SsdScanArguments ScanOf(const Mamba2BlockArguments& block, Matrix projected,
                        Matrix convolved);
// In place. z without data: y has been gated.
GatedNormArguments GatedNormOf(const Mamba2BlockArguments& block,
                               int64_t tokens, Matrix y, ConstMatrix z);

// p takes the place of v.
ShiftMultiplyArguments ShiftOf(const H3BlockArguments& block, ConstMatrix k,
                               Matrix v);
// y takes the place of p.
DiagonalScanArguments ScanOf(const H3BlockArguments& block, ConstMatrix gate,
                             Matrix p);
DiagonalScanArguments ScanOf(const S4dBlockArguments& block, ConstMatrix p,
                             Matrix y);

// y takes the place of q, with k and v behind it in `qkv`.
AttentionArguments AttentionOf(const AttentionBlockArguments& block,
                               Matrix qkv);

// In place of u, with g behind it in `hidden`. REQUIRES: block.gated.
GatedNormArguments GateOf(const MlpBlockArguments& block, int64_t tokens,
                          Matrix hidden);

}  // namespace engram

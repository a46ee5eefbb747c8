#include "tests/cuda_emulation/device/cublaslt_product.h"

#include <algorithm>

#include "kernels/cpu/flush_denormals.h"
#include "tests/cuda_emulation/device/matrix_product.h"

namespace engram::emulation {
namespace {

constexpr int kStepInputs = 16;
constexpr int kLanes = 32;
// Of a tensor-core step: columns of d, and rows.
constexpr int64_t kTileColumns = 16;
constexpr int64_t kTileRows = 8;

// Sums of a tile, as the lanes hold them: of columns and rows behind the last
// they mean nothing.
struct Tile {
  MatrixOperands lanes[kLanes] = {};
};

// Two values beside each other, zeros behind the last row of the matrix.
uint32_t PairAt(const uint16_t* matrix, int64_t leading, int64_t row,
                int64_t rows, int64_t k) {
  if (row >= rows) return 0;
  const uint16_t* const at = matrix + row * leading + k;
  return at[0] | static_cast<uint32_t>(at[1]) << 16;
}

// Lanes hold the inputs that ours do: the order within a step is no library's.
void AddStep(const LibraryProduct& product, int64_t column, int64_t row,
             int64_t k, Tile& tile) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4;
    const int64_t at = k + lane % 4 * 4;
    MatrixOperands& operands = tile.lanes[lane];
    for (int i = 0; i < 4; ++i) {
      operands.a[i] =
          PairAt(product.b, product.b_leading, column + group + i % 2 * 8,
                 product.columns, at + i / 2 * 2);
    }
    for (int i = 0; i < 2; ++i) {
      operands.b[i] = PairAt(product.a, product.a_leading, row + group,
                             product.rows, at + i * 2);
    }
  }
  MultiplyAdd(product.is_float16, options().fused_mma, tile.lanes);
}

void AddSteps(const LibraryProduct& product, int64_t column, int64_t row,
              int64_t first, int64_t end, Tile& tile) {
  for (int64_t k = first; k < end; k += kStepInputs) {
    AddStep(product, column, row, k, tile);
  }
}

// Calls `with` the place of each sum of the tile that the product has.
template <class With>
void ForEach(const LibraryProduct& product, int64_t column, int64_t row,
             Tile& tile, const With& with) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int64_t its_column = column + lane / 4 + i / 2 * 8;
      const int64_t its_row = row + lane % 4 * 2 + i % 2;
      if (its_column >= product.columns || its_row >= product.rows) continue;
      with(its_column, its_row, tile.lanes[lane].acc[i]);
    }
  }
}

void RunTile(const LibraryProduct& product, Algorithm algorithm, int64_t column,
             int64_t row) {
  Tile tile;
  const bool splits =
      algorithm == Algorithm::kSplit || algorithm == Algorithm::kSplitsInside;
  const bool adds_first =
      algorithm == Algorithm::kAddsFirst && product.beta != 0;
  const auto before = [&](int64_t its_column, int64_t its_row) {
    return product.c[its_column * product.c_leading + its_row];
  };
  if (adds_first) {
    ForEach(product, column, row, tile,
            [&](int64_t its_column, int64_t its_row, float& sum) {
              sum = product.beta * before(its_column, its_row);
            });
  }
  const int64_t half =
      splits ? product.depth / kStepInputs / 2 * kStepInputs : product.depth;
  AddSteps(product, column, row, 0, half, tile);
  Tile rest;
  AddSteps(product, column, row, half, product.depth, rest);
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4 && splits; ++i) {
      tile.lanes[lane].acc[i] += rest.lanes[lane].acc[i];
    }
  }
  ForEach(product, column, row, tile,
          [&](int64_t its_column, int64_t its_row, float& sum) {
            if (product.beta != 0 && !adds_first) {
              sum += product.beta * before(its_column, its_row);
            }
            product.d[its_column * product.d_leading + its_row] = sum;
          });
}

}  // namespace

void RunProduct(const LibraryProduct& product, Algorithm algorithm) {
  const cpu::ScopedFlushDenormals flush;
  for (int64_t column = 0; column < product.columns; column += kTileColumns) {
    for (int64_t row = 0; row < product.rows; row += kTileRows) {
      RunTile(product, algorithm, column, row);
    }
  }
}

}  // namespace engram::emulation

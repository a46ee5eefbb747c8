// TokenTile: values of a few tokens on their way from global into shared
// memory, through registers, so that those of the next tile are fetched while
// the block computes with these. Addresses need no alignment.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/row_data.h"
#include "kernels/operations.h"

namespace engram::cuda {

// [kTokens, kWidth] values, dealt out to the kThreads threads of a block: a
// thread has one column or several, of every token or of each so manieth.
template <int kTokens, int kWidth, int kThreads>
class TokenTile {
 public:
  static_assert(kWidth % kThreads == 0 || kThreads % kWidth == 0);

  // Of the `tokens` tokens from `token` on, as many as there are: zero behind
  // them. column_of(column) is the matrix's column, or below 0 for zeros.
  template <class ColumnOf>
  __device__ void Fetch(const ConstMatrix& matrix, int64_t token,
                        int64_t tokens, const ColumnOf& column_of) {
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      const int64_t from = column_of(Column(column));
      const float* source =
          At(matrix, token + FirstToken(), from < 0 ? 0 : from);
#pragma unroll
      for (int round = 0; round < kRounds; ++round) {
        const int t = FirstToken() + round * kTokenStep;
        const bool exists = from >= 0 && t < kTokens && t < tokens;
        values_[column][round] = exists ? Load(source) : 0.0f;
        source += kTokenStep * matrix.stride;
      }
    }
  }

  // Calls body(value, token of the tile, column) for each of this thread's
  // values.
  template <class Body>
  __device__ void Each(const Body& body) const {
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
#pragma unroll
      for (int round = 0; round < kRounds; ++round) {
        const int t = FirstToken() + round * kTokenStep;
        if (t < kTokens) body(values_[column][round], t, Column(column));
      }
    }
  }
  // Leaves them in `target` [kTokens, kWidth].
  __device__ void Put(float* target) const {
    Each([target](float value, int t, int column) {
      target[t * kWidth + column] = value;
    });
  }

 private:
  static constexpr int kColumns = kWidth > kThreads ? kWidth / kThreads : 1;
  static constexpr int kTokenStep = kWidth < kThreads ? kThreads / kWidth : 1;
  static constexpr int kRounds = (kTokens + kTokenStep - 1) / kTokenStep;

  __device__ static int Column(int index) {
    return index * kThreads + static_cast<int>(threadIdx.x) % kWidth;
  }
  __device__ static int FirstToken() {
    return static_cast<int>(threadIdx.x) / kWidth;
  }

  float values_[kColumns][kRounds] = {};
};

}  // namespace engram::cuda

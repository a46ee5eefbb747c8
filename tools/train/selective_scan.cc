// The selective scan of Mamba and its gradient, for training on a CPU.
//
// For every channel e and state n (B and C are shared by all channels):
//   h[t][n][e] = exp(dt[t][e] * A[n][e]) * h[t-1][n][e]
//                + dt[t][e] * B[t][n] * x[t][e]
//   y[t][e]    = sum over n of C[t][n] * h[t][n][e]
//
// All tensors are float and contiguous, the last dimension varying fastest:
//   dt, x, y  [rows, tokens, channels]      B, C  [rows, tokens, states]
//   A         [states, channels]            h     [rows, states, channels]
//
// Channels are the vector dimension and are taken in blocks that stay in the
// first-level cache. The forward pass keeps only the state at the start of
// every chunk of tokens; the backward pass recomputes the chunk from it.
//
// Source: Mamba, arXiv 2312.00752, Algorithm 2.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t kBlock = 64;  // channels taken together
constexpr int64_t kChunk = 32;  // tokens between two kept states

// Copies a [states, width] tile between arrays with different row strides.
void CopyTile(const float* from, int64_t from_stride, float* to,
              int64_t to_stride, int64_t states, int64_t width) {
  for (int64_t n = 0; n < states; ++n) {
    std::memcpy(to + n * to_stride, from + n * from_stride,
                width * sizeof(float));
  }
}

// Reads from `previous`, writes `h` and, unless null, the decay factors. Both
// are [states, kBlock]; `h` may be `previous`.
void AdvanceState(const float* __restrict dt, const float* __restrict x,
                  const float* __restrict A, int64_t A_stride,
                  const float* __restrict B, int64_t states, int64_t width,
                  const float* previous, float* h, float* decay) {
  float write[kBlock];
  for (int64_t e = 0; e < width; ++e) write[e] = dt[e] * x[e];
  for (int64_t n = 0; n < states; ++n) {
    const float* A_n = A + n * A_stride;
    const float* from = previous + n * kBlock;
    float* to = h + n * kBlock;
    const float b = B[n];
    float factor[kBlock];
    for (int64_t e = 0; e < width; ++e) factor[e] = std::exp(dt[e] * A_n[e]);
#pragma GCC ivdep
    for (int64_t e = 0; e < width; ++e) {
      to[e] = factor[e] * from[e] + b * write[e];
    }
    if (decay != nullptr) {
      std::memcpy(decay + n * kBlock, factor, width * sizeof(float));
    }
  }
}

}  // namespace

extern "C" {

int64_t selective_scan_chunk() { return kChunk; }

// y = log(1 + exp(x)), by its series where exp(x) is small, so that small step
// sizes keep their relative accuracy; x itself above 20.
void softplus_forward(int64_t size, const float* __restrict x,
                      float* __restrict y) {
  for (int64_t i = 0; i < size; ++i) {
    const float u = std::exp(std::min(x[i], 20.0f));
    const float series = u * (1 - u * (0.5f - u * (1.0f / 3 - u * 0.25f)));
    const float exact = std::log(1 + u);
    y[i] = x[i] > 20 ? x[i] : u < 0.02f ? series : exact;
  }
}

void softplus_backward(int64_t size, const float* __restrict x,
                       const float* __restrict d_y, float* __restrict d_x) {
  for (int64_t i = 0; i < size; ++i) {
    const float u = std::exp(std::min(x[i], 20.0f));
    d_x[i] = d_y[i] * (u / (1 + u));
  }
}

// h_first may be null (zero). kept is [rows, ceil(tokens / chunk), states,
// channels] and may be null when no gradient is wanted.
void selective_scan_forward(int64_t rows, int64_t tokens, int64_t channels,
                            int64_t states, const float* dt, const float* x,
                            const float* A, const float* B, const float* C,
                            const float* h_first, float* y, float* h_last,
                            float* kept) {
  const int64_t chunks = (tokens + kChunk - 1) / kChunk;
  std::vector<float> h(states * kBlock);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t first = 0; first < channels; first += kBlock) {
      const int64_t width = std::min(kBlock, channels - first);
      const int64_t tile = row * states * channels + first;
      std::fill(h.begin(), h.end(), 0.0f);
      if (h_first != nullptr) {
        CopyTile(h_first + tile, channels, h.data(), kBlock, states, width);
      }
      for (int64_t t = 0; t < tokens; ++t) {
        if (kept != nullptr && t % kChunk == 0) {
          float* to = kept + (row * chunks + t / kChunk) * states * channels;
          CopyTile(h.data(), kBlock, to + first, channels, states, width);
        }
        const int64_t at = (row * tokens + t) * channels + first;
        const int64_t at_state = (row * tokens + t) * states;
        AdvanceState(dt + at, x + at, A + first, channels, B + at_state, states,
                     width, h.data(), h.data(), nullptr);
        float sum[kBlock] = {};
        for (int64_t n = 0; n < states; ++n) {
          const float c = C[at_state + n];
          const float* h_n = h.data() + n * kBlock;
          for (int64_t e = 0; e < width; ++e) sum[e] += c * h_n[e];
        }
        std::memcpy(y + at, sum, width * sizeof(float));
      }
      CopyTile(h.data(), kBlock, h_last + tile, channels, states, width);
    }
  }
}

// The d_* outputs must be zero on entry, except d_h_first, which carries the
// gradient of h_last in and that of h_first out.
void selective_scan_backward(int64_t rows, int64_t tokens, int64_t channels,
                             int64_t states, const float* dt, const float* x,
                             const float* A, const float* B, const float* C,
                             const float* kept, const float* d_y, float* d_dt,
                             float* d_x, float* d_A, float* d_B, float* d_C,
                             float* d_h_first) {
  const int64_t chunks = (tokens + kChunk - 1) / kChunk;
  const int64_t size = states * kBlock;
  std::vector<float> h((kChunk + 1) * size), decay(kChunk * size), d_h(size);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t first = 0; first < channels; first += kBlock) {
      const int64_t width = std::min(kBlock, channels - first);
      float* d_h_row = d_h_first + row * states * channels + first;
      CopyTile(d_h_row, channels, d_h.data(), kBlock, states, width);
      for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
        const int64_t begin = chunk * kChunk;
        const int64_t end = std::min(tokens, begin + kChunk);
        CopyTile(kept + (row * chunks + chunk) * states * channels + first,
                 channels, h.data(), kBlock, states, width);
        for (int64_t t = begin; t < end; ++t) {
          const int64_t at = (row * tokens + t) * channels + first;
          float* h_t = h.data() + (t - begin) * size;
          AdvanceState(dt + at, x + at, A + first, channels,
                       B + (row * tokens + t) * states, states, width, h_t,
                       h_t + size, decay.data() + (t - begin) * size);
        }
        for (int64_t t = end - 1; t >= begin; --t) {
          const int64_t at = (row * tokens + t) * channels + first;
          const int64_t at_state = (row * tokens + t) * states;
          const float* dt_t = dt + at;
          const float* x_t = x + at;
          const float* d_y_t = d_y + at;
          float write[kBlock], d_write[kBlock] = {}, d_step[kBlock] = {};
          for (int64_t e = 0; e < width; ++e) write[e] = dt_t[e] * x_t[e];
          for (int64_t n = 0; n < states; ++n) {
            const float* __restrict before =
                h.data() + (t - begin) * size + n * kBlock;
            const float* __restrict after = before + size;
            const float* __restrict factor =
                decay.data() + (t - begin) * size + n * kBlock;
            const float* __restrict A_n = A + n * channels + first;
            float* __restrict d_A_n = d_A + n * channels + first;
            float* __restrict d_h_n = d_h.data() + n * kBlock;
            const float b = B[at_state + n], c = C[at_state + n];
            float sum_b = 0, sum_c = 0;
            for (int64_t e = 0; e < width; ++e) {
              const float gradient = d_h_n[e] + c * d_y_t[e];
              const float carried = gradient * factor[e];
              const float exponent = carried * before[e];
              sum_c += d_y_t[e] * after[e];
              sum_b += gradient * write[e];
              d_write[e] += gradient * b;
              d_step[e] += exponent * A_n[e];
              d_A_n[e] += exponent * dt_t[e];
              d_h_n[e] = carried;
            }
            d_B[at_state + n] += sum_b;
            d_C[at_state + n] += sum_c;
          }
          for (int64_t e = 0; e < width; ++e) {
            d_x[at + e] = d_write[e] * dt_t[e];
            d_dt[at + e] = d_write[e] * x_t[e] + d_step[e];
          }
        }
      }
      CopyTile(d_h.data(), kBlock, d_h_row, channels, states, width);
    }
  }
}

}  // extern "C"

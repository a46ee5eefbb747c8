// How the recurrent operations are cut into items: each row by parts of its
// channels or heads, which don't depend on each other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// Calls body(row, part) for every row and every part in [0, parts). `token_ns`:
// about how long all parts of a token take one thread, in nanoseconds.
template <class Body>
void ForEachRowPart(ThreadPool& threads, const StepRows& step, int64_t parts,
                    double token_ns, const Body& body) {
  const absl::Span<const Row> rows = step.rows();
  const int64_t items = static_cast<int64_t>(rows.size()) * parts;
  threads.ParallelFor(
      items,
      static_cast<int64_t>(static_cast<double>(step.tokens()) * token_ns),
      [&](int64_t item) { body(rows[item / parts], item % parts); });
}

// The same by parts of `part_channels` channels, the last of them shorter:
// body(row, first channel, end).
template <class Body>
void ForEachRowAndChannels(ThreadPool& threads, const StepRows& step,
                           int64_t channels, int64_t part_channels,
                           double token_ns, const Body& body) {
  const int64_t parts = (channels + part_channels - 1) / part_channels;
  ForEachRowPart(threads, step, parts, token_ns,
                 [&](const Row& row, int64_t part) {
                   const int64_t begin = part * part_channels;
                   body(row, begin, std::min(begin + part_channels, channels));
                 });
}

// A part of a row's state: `lines` of them, `stride` floats apart, of `width`
// floats each, from `first` on.
struct StatePart {
  int64_t first = 0;
  int64_t lines = 1;
  int64_t stride = 0;
  int64_t width = 0;
};

// The part in slot_out, where a scan goes on with what slot_in holds.
inline float* StateOf(const LayerShares& shares, const Row& row,
                      const StatePart& part) {
  float* const out = shares[row.slot_out] + part.first;
  if (row.slot_in == row.slot_out) return out;
  const float* const in = shares[row.slot_in] + part.first;
  for (int64_t line = 0; line < part.lines; ++line) {
    std::memcpy(out + line * part.stride, in + line * part.stride,
                part.width * sizeof(float));
  }
  return out;
}

}  // namespace engram::cpu

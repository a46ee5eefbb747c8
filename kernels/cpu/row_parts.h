// How the recurrent operations are cut into items: each row by parts of its
// channels or heads, which don't depend on each other.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// Calls body(row, part) for every row and every part in [0, parts). `token_ns`:
// about how long all parts of a token take one thread, in nanoseconds.
template <class Body>
void ForEachRowPart(ThreadPool& threads, Rows rows, int64_t parts,
                    double token_ns, const Body& body) {
  const int64_t items = static_cast<int64_t>(rows.size()) * parts;
  int64_t tokens = 0;
  for (const Row& row : rows) tokens += row.tokens;
  threads.ParallelFor(
      items, static_cast<int64_t>(static_cast<double>(tokens) * token_ns),
      [&](int64_t item) { body(rows[item / parts], item % parts); });
}

// The same by parts of `part_channels` channels, the last of them shorter:
// body(row, first channel, end).
template <class Body>
void ForEachRowAndChannels(ThreadPool& threads, Rows rows, int64_t channels,
                           int64_t part_channels, double token_ns,
                           const Body& body) {
  const int64_t parts = (channels + part_channels - 1) / part_channels;
  ForEachRowPart(threads, rows, parts, token_ns,
                 [&](const Row& row, int64_t part) {
                   const int64_t begin = part * part_channels;
                   body(row, begin, std::min(begin + part_channels, channels));
                 });
}

}  // namespace engram::cpu

// How the recurrent operations are cut into items: each row by parts of its
// channels or heads, which don't depend on each other.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace engram::cpu {

// Calls body(row, part) for every row and every part in [0, parts). On the
// calling thread alone if all the tokens, at `work_per_token` each, are less
// than `parallel_work`: waking a thread would then cost more than it saves.
template <class Body>
void ForEachRowPart(ThreadPool& threads, Rows rows, int64_t parts,
                    int64_t work_per_token, int64_t parallel_work,
                    const Body& body) {
  const int64_t items = static_cast<int64_t>(rows.size()) * parts;
  const auto run = [&](int64_t item) {
    body(rows[item / parts], item % parts);
  };
  int64_t tokens = 0;
  for (const Row& row : rows) tokens += row.tokens;
  if (tokens * work_per_token < parallel_work) {
    for (int64_t item = 0; item < items; ++item) run(item);
  } else {
    threads.ParallelFor(items, run);
  }
}

// The same by parts of `part_channels` channels, the last of them shorter:
// body(row, first channel, end).
template <class Body>
void ForEachRowAndChannels(ThreadPool& threads, Rows rows, int64_t channels,
                           int64_t part_channels, int64_t work_per_token,
                           int64_t parallel_work, const Body& body) {
  const int64_t parts = (channels + part_channels - 1) / part_channels;
  ForEachRowPart(threads, rows, parts, work_per_token, parallel_work,
                 [&](const Row& row, int64_t part) {
                   const int64_t begin = part * part_channels;
                   body(row, begin, std::min(begin + part_channels, channels));
                 });
}

}  // namespace engram::cpu

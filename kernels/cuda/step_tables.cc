#include "kernels/cuda/step_tables.h"

#include <algorithm>

#include "kernels/cuda/outcome_rows.h"
#include "kernels/cuda/row_buckets.h"
#include "kernels/status.h"

namespace engram::cuda {
namespace {

constexpr size_t kAlignment = 256;

// What steps are not much above.
constexpr LargestStep kUsual = {
    .rows = 1024, .tokens = 16384, .kv_blocks = 65536};

size_t Aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

StepTables::Places StepTables::PlacesOf(const Room& room) {
  Places places;
  places.rows = 0;
  places.row_of_token = Aligned(room.rows * sizeof(StepRow));
  places.ids = places.row_of_token + Aligned(room.tokens * sizeof(int32_t));
  places.requests = places.ids + Aligned(room.tokens * sizeof(int32_t));
  places.block_ids =
      places.requests + Aligned(room.requests * sizeof(OutcomeRow));
  places.end = places.block_ids + Aligned(room.blocks * sizeof(int32_t));
  return places;
}

StepTables::Room StepTables::RoomFor(const StepRows& step) {
  Room room;
  room.rows = static_cast<int64_t>(step.rows().size());
  room.tokens = std::max(step.tokens(), room.rows);
  // Of a step that may be recorded; others have theirs behind the blocks.
  if (room.tokens <= kLargestBucket) room.requests = room.rows;
  for (size_t row = 0; step.has_blocks() && row < step.rows().size(); ++row) {
    room.blocks += static_cast<int64_t>(step.blocks(row).size());
  }
  return room;
}

// Of one that is recorded, with its requests, or of one that is not.
size_t StepTables::BytesFor(const LargestStep& largest) {
  const Room all = {.rows = largest.rows,
                    .tokens = std::max(largest.tokens, largest.rows),
                    .blocks = largest.kv_blocks};
  Room recorded = all;
  recorded.rows = std::min(all.rows, kLargestBucket);
  recorded.tokens = std::min(all.tokens, kLargestBucket);
  recorded.requests = recorded.rows;
  return std::max(PlacesOf(all).end, PlacesOf(recorded).end);
}

void StepTables::Place(const StepRows& step) {
  const std::byte* const base = upload_.memory();
  table_.rows = reinterpret_cast<const StepRow*>(base + places_.rows);
  table_.row_of_token =
      reinterpret_cast<const int32_t*>(base + places_.row_of_token);
  table_.ids = reinterpret_cast<const int32_t*>(base + places_.ids);
  table_.block_ids = reinterpret_cast<const int32_t*>(base + places_.block_ids);
  table_.row_count = static_cast<int64_t>(step.rows().size());
  table_.token_count = step.tokens();
  table_.longest_row = step.padding() > 0 ? 1 : 0;
  for (const Row& row : step.rows()) {
    table_.longest_row = std::max<int64_t>(table_.longest_row, row.tokens);
  }
}

void StepTables::FillRows(const StepRows& step, std::byte* upload) const {
  auto* const rows = reinterpret_cast<StepRow*>(upload + places_.rows);
  auto* const block_ids =
      reinterpret_cast<int32_t*>(upload + places_.block_ids);
  int32_t blocks = 0;
  for (size_t i = 0; i < step.rows().size(); ++i) {
    const Row& row = step.rows()[i];
    rows[i] = {row.slot_in,  row.slot_out, row.tokens, row.offset,
               row.position, blocks,       row.follows};
    if (!step.has_blocks()) continue;
    const absl::Span<const int32_t> own = step.blocks(i);
    std::copy(own.begin(), own.end(), block_ids + blocks);
    blocks += static_cast<int32_t>(own.size());
  }
}

void StepTables::FillTokens(const StepRows& step, std::byte* upload) const {
  auto* row_of_token =
      reinterpret_cast<int32_t*>(upload + places_.row_of_token);
  const auto rows = static_cast<int32_t>(step.rows().size());
  const auto sequences = rows - static_cast<int32_t>(step.padding());
  for (int32_t row = 0; row < rows; ++row) {
    const int places = row < sequences ? step.rows()[row].tokens : 1;
    row_of_token = std::fill_n(row_of_token, places, row);
  }
  // A recorded graph has a token for each row, though some rows may have none
  // now. Those tokens that there are not are given to the last row: they lie
  // behind its own, so that no kernel does anything for them.
  for (int64_t token = step.tokens(); token < rows; ++token) {
    *row_of_token++ = rows - 1;
  }
  std::copy(step.ids().begin(), step.ids().end(),
            reinterpret_cast<int32_t*>(upload + places_.ids));
}

FollowingRows StepTables::following_rows() const {
  std::byte* const base = upload_.memory();
  return {.rows = reinterpret_cast<StepRow*>(base + places_.rows),
          .ids = reinterpret_cast<int32_t*>(base + places_.ids),
          .row_count = table_.row_count};
}

absl::Status StepTables::LayOut(const StepRows& step, cudaStream_t stream,
                                bool* moved) {
  const Room room = RoomFor(step);
  const Places places = PlacesOf(room);
  if (places.end > upload_.row_bytes()) {
    ENGRAM_RETURN_IF_ERROR(
        upload_.Reserve(std::max(2 * places.end, BytesFor(kUsual)),
                        /*request_bytes=*/0, stream, moved));
  }
  ENGRAM_ASSIGN_OR_RETURN(std::byte* const upload, upload_.Begin());
  places_ = places;
  in_place_ = room.requests > 0;
  Place(step);
  FillRows(step, upload);
  FillTokens(step, upload);
  return absl::OkStatus();
}

}  // namespace engram::cuda

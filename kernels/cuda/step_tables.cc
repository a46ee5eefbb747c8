#include "kernels/cuda/step_tables.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_status.h"
#include "kernels/status.h"

namespace engram::cuda {
namespace {

constexpr size_t kAlignment = 256;

size_t Aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

StepTables::~StepTables() {
  for (const Staging& staging : stagings_) {
    if (staging.copied == nullptr || DeviceIsLost()) continue;
    (void)cudaEventDestroy(staging.copied);
  }
}

StepTables::Places StepTables::PlacesOf(const Room& room) {
  Places places;
  places.rows = 0;
  places.row_of_token = Aligned(room.rows * sizeof(StepRow));
  places.ids = places.row_of_token + Aligned(room.tokens * sizeof(int32_t));
  places.block_ids = places.ids + Aligned(room.tokens * sizeof(int32_t));
  places.end = places.block_ids + Aligned(room.blocks * sizeof(int32_t));
  return places;
}

StepTables::Room StepTables::RoomFor(const StepRows& step) {
  Room room;
  room.rows = static_cast<int64_t>(step.rows().size());
  room.tokens = std::max(step.tokens(), room.rows);
  for (size_t row = 0; step.has_blocks() && row < step.rows().size(); ++row) {
    room.blocks += static_cast<int64_t>(step.blocks(row).size());
  }
  return room;
}

absl::Status StepTables::Reserve() {
  for (Staging& staging : stagings_) {
    ENGRAM_RETURN_IF_ERROR(DeviceStatus(
        cudaEventCreateWithFlags(&staging.copied, cudaEventDisableTiming),
        "making an event"));
  }
  return Take({.rows = 1024, .tokens = 16384, .blocks = 65536});
}

absl::Status StepTables::Take(const Room& room) {
  const Places places = PlacesOf(room);
  ENGRAM_ASSIGN_OR_RETURN(device_, AllocateDeviceMemory(places.end));
  for (Staging& staging : stagings_) {
    ENGRAM_ASSIGN_OR_RETURN(staging.memory, AllocatePinnedMemory(places.end));
  }
  room_ = room;
  places_ = places;
  const auto* const base = static_cast<const std::byte*>(device_->data());
  table_.rows = reinterpret_cast<const StepRow*>(base + places.rows);
  table_.row_of_token =
      reinterpret_cast<const int32_t*>(base + places.row_of_token);
  table_.ids = reinterpret_cast<const int32_t*>(base + places.ids);
  table_.block_ids = reinterpret_cast<const int32_t*>(base + places.block_ids);
  return absl::OkStatus();
}

void StepTables::Fill(const StepRows& step, std::byte* memory,
                      Places* used) const {
  auto* const rows = reinterpret_cast<StepRow*>(memory + places_.rows);
  auto* const row_of_token =
      reinterpret_cast<int32_t*>(memory + places_.row_of_token);
  auto* const block_ids =
      reinterpret_cast<int32_t*>(memory + places_.block_ids);
  int32_t blocks = 0;
  for (size_t i = 0; i < step.rows().size(); ++i) {
    const Row& row = step.rows()[i];
    rows[i] = {row.slot_in,  row.slot_out, row.tokens, row.offset,
               row.position, blocks,       row.follows};
    std::fill_n(row_of_token + row.offset, row.tokens, static_cast<int32_t>(i));
    if (!step.has_blocks()) continue;
    const absl::Span<const int32_t> own = step.blocks(i);
    std::copy(own.begin(), own.end(), block_ids + blocks);
    blocks += static_cast<int32_t>(own.size());
  }
  // A recorded graph has a token for each row, of which some may have none now:
  // what is left over belongs to the last row, behind its tokens.
  const int64_t rows_and_tokens =
      std::max<int64_t>(step.tokens(), step.rows().size());
  std::fill(row_of_token + step.tokens(), row_of_token + rows_and_tokens,
            static_cast<int32_t>(step.rows().size()) - 1);
  std::copy(step.ids().begin(), step.ids().end(),
            reinterpret_cast<int32_t*>(memory + places_.ids));
  used->rows = step.rows().size() * sizeof(StepRow);
  used->row_of_token = rows_and_tokens * sizeof(int32_t);
  used->ids = step.ids().size() * sizeof(int32_t);
  used->block_ids = blocks * sizeof(int32_t);
}

FollowingRows StepTables::following_rows() const {
  auto* const base = static_cast<std::byte*>(device_->data());
  return {.rows = reinterpret_cast<StepRow*>(base + places_.rows),
          .ids = reinterpret_cast<int32_t*>(base + places_.ids),
          .row_count = table_.row_count};
}

absl::Status StepTables::Upload(const StepRows& step, cudaStream_t stream,
                                bool* moved) {
  const Room needed = RoomFor(step);
  if (needed.rows > room_.rows || needed.tokens > room_.tokens ||
      needed.blocks > room_.blocks) {
    // Kernels of earlier steps may still read what is about to be freed.
    ENGRAM_RETURN_IF_ERROR(
        DeviceStatus(cudaStreamSynchronize(stream), "waiting for a step"));
    ENGRAM_RETURN_IF_ERROR(
        Take({.rows = std::max(room_.rows, 2 * needed.rows),
              .tokens = std::max(room_.tokens, 2 * needed.tokens),
              .blocks = std::max(room_.blocks, 2 * needed.blocks)}));
    *moved = true;
  }
  Staging& staging = stagings_[next_];
  next_ = 1 - next_;
  ENGRAM_RETURN_IF_ERROR(DeviceStatus(cudaEventSynchronize(staging.copied),
                                      "waiting for a table of rows"));
  auto* const source = static_cast<std::byte*>(staging.memory->data());
  auto* const target = static_cast<std::byte*>(device_->data());
  Places used = {};
  Fill(step, source, &used);
  for (const auto& [place, bytes] :
       {std::pair(places_.rows, used.rows),
        std::pair(places_.row_of_token, used.row_of_token),
        std::pair(places_.ids, used.ids),
        std::pair(places_.block_ids, used.block_ids)}) {
    if (bytes == 0) continue;
    ENGRAM_RETURN_IF_ERROR(
        DeviceStatus(cudaMemcpyAsync(target + place, source + place, bytes,
                                     cudaMemcpyHostToDevice, stream),
                     "copying a table of rows"));
  }
  table_.row_count = needed.rows;
  table_.token_count = needed.tokens;
  table_.longest_row = 0;
  for (const Row& row : step.rows()) {
    table_.longest_row = std::max<int64_t>(table_.longest_row, row.tokens);
  }
  return DeviceStatus(cudaEventRecord(staging.copied, stream),
                      "recording an event");
}

}  // namespace engram::cuda

#include "kernels/cuda/step_tables.h"

#include <algorithm>

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_status.h"
#include "kernels/cuda/row_buckets.h"
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
  return Take(PlacesOf({.rows = 1024, .tokens = 16384, .blocks = 65536}).end);
}

absl::Status StepTables::Take(size_t bytes) {
  ENGRAM_ASSIGN_OR_RETURN(device_, AllocateDeviceMemory(bytes));
  for (Staging& staging : stagings_) {
    ENGRAM_ASSIGN_OR_RETURN(staging.memory, AllocatePinnedMemory(bytes));
  }
  return absl::OkStatus();
}

void StepTables::Place(const StepRows& step, const Places& places) {
  const auto* const base = static_cast<const std::byte*>(device_->data());
  places_ = places;
  table_.rows = reinterpret_cast<const StepRow*>(base + places.rows);
  table_.row_of_token =
      reinterpret_cast<const int32_t*>(base + places.row_of_token);
  table_.ids = reinterpret_cast<const int32_t*>(base + places.ids);
  table_.block_ids = reinterpret_cast<const int32_t*>(base + places.block_ids);
  table_.row_count = static_cast<int64_t>(step.rows().size());
  table_.token_count = step.tokens();
}

size_t StepTables::Fill(const StepRows& step, std::byte* memory) const {
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
    const bool is_padding = i + step.padding() >= step.rows().size();
    std::fill_n(row_of_token + row.offset, is_padding ? 1 : row.tokens,
                static_cast<int32_t>(i));
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
  return places_.block_ids + blocks * sizeof(int32_t);
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
  in_place_ = needed.rows <= kLargestBucket && needed.tokens <= kLargestBucket;
  const Places places = PlacesOf(in_place_ ? Room{.rows = kLargestBucket,
                                                  .tokens = kLargestBucket,
                                                  .blocks = needed.blocks}
                                           : needed);
  if (places.end > device_->bytes()) {
    // Kernels of earlier steps may still read what is about to be freed.
    ENGRAM_RETURN_IF_ERROR(
        DeviceStatus(cudaStreamSynchronize(stream), "waiting for a step"));
    ENGRAM_RETURN_IF_ERROR(Take(2 * places.end));
    *moved = true;
  }
  Place(step, places);
  Staging& staging = stagings_[next_];
  next_ = 1 - next_;
  ENGRAM_RETURN_IF_ERROR(DeviceStatus(cudaEventSynchronize(staging.copied),
                                      "waiting for a table of rows"));
  const size_t bytes =
      Fill(step, static_cast<std::byte*>(staging.memory->data()));
  ENGRAM_RETURN_IF_ERROR(
      DeviceStatus(cudaMemcpyAsync(device_->data(), staging.memory->data(),
                                   bytes, cudaMemcpyHostToDevice, stream),
                   "copying a table of rows"));
  table_.longest_row = step.padding() > 0 ? 1 : 0;
  for (const Row& row : step.rows()) {
    table_.longest_row = std::max<int64_t>(table_.longest_row, row.tokens);
  }
  return DeviceStatus(cudaEventRecord(staging.copied, stream),
                      "recording an event");
}

}  // namespace engram::cuda

#include "kernels/step_rows.h"

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/status.h"

namespace engram {

void StepRows::CheckSlots() {
  slot_uses_.clear();
  for (const Row& row : rows_) {
    ENGRAM_CHECK(row.slot_in >= 0 && row.slot_out >= 0);
    const bool in_place = row.slot_in == row.slot_out;
    if (!in_place) slot_uses_.push_back({row.slot_in, false});
    slot_uses_.push_back({row.slot_out, !in_place || row.tokens > 0});
  }
  std::sort(slot_uses_.begin(), slot_uses_.end(),
            [](const SlotUse& left, const SlotUse& right) {
              return left.slot < right.slot;
            });
  for (size_t i = 1; i < slot_uses_.size(); ++i) {
    const SlotUse& use = slot_uses_[i];
    const SlotUse& other = slot_uses_[i - 1];
    ENGRAM_CHECK(use.slot != other.slot || (!use.written && !other.written));
  }
}

void StepRows::Assign(absl::Span<const Row> rows,
                      absl::Span<const absl::Span<const int32_t>> blocks,
                      absl::Span<const int32_t> ids) {
  ENGRAM_CHECK(blocks.empty() || blocks.size() == rows.size());
  rows_.assign(rows.begin(), rows.end());
  CheckSlots();
  padding_ = 0;
  tokens_ = 0;
  has_blocks_ = !blocks.empty();
  blocks_.clear();
  first_blocks_.assign(1, 0);
  for (size_t i = 0; i < rows_.size(); ++i) {
    Row& row = rows_[i];
    ENGRAM_CHECK(row.tokens >= 0 && row.position >= 0);
    row.offset = static_cast<int>(tokens_);
    tokens_ += row.tokens;
    if (!has_blocks_) continue;
    ENGRAM_CHECK(static_cast<int64_t>(blocks[i].size()) *
                     kKeyValueBlockTokens >=
                 row.position + row.tokens);
    blocks_.insert(blocks_.end(), blocks[i].begin(), blocks[i].end());
    first_blocks_.push_back(blocks_.size());
  }
  ENGRAM_CHECK(ids.empty() || static_cast<int64_t>(ids.size()) == tokens_);
  ids_.assign(ids.begin(), ids.end());
}

void StepRows::Pad(int64_t rows) {
  const bool has_ids = static_cast<int64_t>(ids_.size()) == tokens_;
  for (int64_t i = 0; i < rows; ++i) {
    Row row;
    row.offset = static_cast<int>(tokens_);
    rows_.push_back(row);
    ++tokens_;
    if (has_ids) ids_.push_back(0);
    if (has_blocks_) first_blocks_.push_back(blocks_.size());
  }
  padding_ += rows;
}

void StepRows::AssignPadding(int64_t rows, bool has_blocks) {
  Assign({}, {}, {});
  has_blocks_ = has_blocks;
  Pad(rows);
}

}  // namespace engram

#include "model/key_value_pool.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {

int64_t KeyValueBlocks(int64_t tokens) {
  return (tokens + kKeyValueBlockTokens - 1) / kKeyValueBlockTokens;
}

KeyValuePool::KeyValuePool(Backend* backend, KeyValueShape shape,
                           int64_t blocks, int slots)
    : backend_(backend), shape_(shape), owners_(blocks, 0), slots_(slots) {
  // The last is taken first: blocks go out in ascending order at the start.
  for (int64_t block = blocks - 1; block >= 0; --block) {
    free_.push_back(static_cast<int32_t>(block));
  }
}

absl::StatusOr<std::unique_ptr<KeyValuePool>> KeyValuePool::Create(
    Backend* backend, KeyValueShape shape, size_t bytes, int slots) {
  ENGRAM_CHECK(shape.layers >= 1 && shape.width >= 1 && slots >= 1);
  // Their numbers must fit in 32 bits.
  const size_t blocks = std::min<size_t>(bytes / shape.block_bytes(),
                                         std::numeric_limits<int32_t>::max());
  if (blocks < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "memory for keys and values is ", bytes, " bytes (--kv-memory); ",
        kKeyValueBlockTokens, " tokens of this model's ", shape.layers,
        " attention layers take ", shape.block_bytes()));
  }
  std::unique_ptr<KeyValuePool> pool(
      new KeyValuePool(backend, shape, static_cast<int64_t>(blocks), slots));
  absl::StatusOr<std::unique_ptr<Buffer>> buffer =
      backend->Allocate(blocks * shape.block_bytes());
  if (!buffer.ok()) {
    return absl::Status(
        buffer.status().code(),
        absl::StrCat("no memory for keys and values (--kv-memory): ",
                     buffer.status().message()));
  }
  pool->buffer_ = std::move(*buffer);
  return pool;
}

KeyValueUse KeyValuePool::use() const {
  KeyValueUse use;
  use.blocks = static_cast<int64_t>(owners_.size());
  use.used = use.blocks - static_cast<int64_t>(free_.size());
  use.reserved = reserved_;
  return use;
}

bool KeyValuePool::Reserve(int slot, int64_t blocks) {
  ENGRAM_CHECK(blocks >= 0);
  if (blocks > use().available()) return false;
  slots_[slot].reserved += blocks;
  reserved_ += blocks;
  return true;
}

void KeyValuePool::EndReservation(int slot) {
  reserved_ -= slots_[slot].reserved;
  slots_[slot].reserved = 0;
}

absl::StatusOr<int32_t> KeyValuePool::TakeBlock(Slot* slot) {
  if (slot->reserved > 0) {
    --slot->reserved;
    --reserved_;
  } else {
    ENGRAM_CHECK(use().available() > 0);
  }
  const int32_t block = free_.back();
  free_.pop_back();
  owners_[block] = 1;
  // What lies behind the last token is saved with a block: it must not be
  // what another sequence left there.
  slot->blocks.push_back(block);
  ENGRAM_RETURN_IF_ERROR(backend_->Zero(At(block), shape_.block_bytes()));
  return block;
}

void KeyValuePool::DropBlocks(Slot* slot) {
  for (int32_t block : slot->blocks) {
    if (--owners_[block] == 0) free_.push_back(block);
  }
  slot->blocks.clear();
  slot->tokens = 0;
}

absl::Status KeyValuePool::Append(int slot, int64_t tokens) {
  Slot& target = slots_[slot];
  target.tokens += tokens;
  const auto wanted = static_cast<size_t>(KeyValueBlocks(target.tokens));
  while (target.blocks.size() < wanted) {
    ENGRAM_RETURN_IF_ERROR(TakeBlock(&target).status());
  }
  return absl::OkStatus();
}

void KeyValuePool::TakeBack(int slot, int64_t tokens) {
  Slot& target = slots_[slot];
  ENGRAM_CHECK(tokens <= target.tokens);
  target.tokens -= tokens;
  const auto wanted = static_cast<size_t>(KeyValueBlocks(target.tokens));
  while (target.blocks.size() > wanted) {
    // Appended, so that it has no other owner.
    ENGRAM_CHECK(--owners_[target.blocks.back()] == 0);
    free_.push_back(target.blocks.back());
    target.blocks.pop_back();
    ++target.reserved;
    ++reserved_;
  }
}

void KeyValuePool::Free(int slot) {
  Clear(slot);
  EndReservation(slot);
}

void KeyValuePool::Clear(int slot) { DropBlocks(&slots_[slot]); }

absl::Status KeyValuePool::Copy(int target, int source) {
  if (target == source) return absl::OkStatus();
  const Slot& from = slots_[source];
  Slot& to = slots_[target];
  const int64_t own =
      std::count_if(to.blocks.begin(), to.blocks.end(),
                    [&](int32_t block) { return owners_[block] == 1; });
  DropBlocks(&to);
  to.reserved += own;
  reserved_ += own;
  to.tokens = from.tokens;
  const auto full = static_cast<size_t>(from.tokens / kKeyValueBlockTokens);
  for (size_t i = 0; i < full; ++i) {
    ++owners_[from.blocks[i]];
    to.blocks.push_back(from.blocks[i]);
  }
  if (from.blocks.size() == full) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(const int32_t block, TakeBlock(&to));
  return backend_->Copy(At(block), At(from.blocks[full]), shape_.block_bytes());
}

absl::StatusOr<std::unique_ptr<DeviceEvent>> KeyValuePool::BeginSavePart(
    int slot, size_t begin, size_t count, void* target) const {
  ENGRAM_CHECK(count > 0 && begin + count <= bytes(slot));
  std::unique_ptr<DeviceEvent> last;
  char* next = static_cast<char*>(target);
  while (count > 0) {
    const int32_t block = slots_[slot].blocks[begin / shape_.block_bytes()];
    const size_t within = begin % shape_.block_bytes();
    const size_t copied = std::min(count, shape_.block_bytes() - within);
    ENGRAM_ASSIGN_OR_RETURN(
        last, backend_->BeginCopyToHost(next, At(block) + within, copied));
    next += copied;
    begin += copied;
    count -= copied;
  }
  return last;
}

absl::StatusOr<std::unique_ptr<DeviceEvent>> KeyValuePool::BeginRestore(
    int slot, const void* source, int64_t tokens) {
  ENGRAM_CHECK(tokens > 0);
  Clear(slot);
  ENGRAM_RETURN_IF_ERROR(Append(slot, tokens));
  std::unique_ptr<DeviceEvent> last;
  const char* next = static_cast<const char*>(source);
  for (int32_t block : slots_[slot].blocks) {
    ENGRAM_ASSIGN_OR_RETURN(last, backend_->BeginCopyFromHost(
                                      At(block), next, shape_.block_bytes()));
    next += shape_.block_bytes();
  }
  return last;
}

LayerShares KeyValuePool::Layer(int64_t layer) const {
  ENGRAM_CHECK(layer >= 0 && layer < shape_.layers);
  const auto stride =
      static_cast<int64_t>(shape_.block_bytes() / sizeof(float));
  return {buffer_->floats() + layer * (stride / shape_.layers), stride};
}

char* KeyValuePool::At(int32_t block) const {
  return static_cast<char*>(buffer_->data()) + block * shape_.block_bytes();
}

}  // namespace engram

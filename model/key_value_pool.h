// KeyValuePool: the keys and values that attention layers keep of every token,
// in blocks of kKeyValueBlockTokens tokens of all layers, allocated once. A
// block is one piece of memory, [layer][keys, values], and is copied as one.
//
// A slot's tokens lie in its list of blocks, in order. A block that is full
// never changes again, so that a slot which begins as a copy of another shares
// its full blocks and takes one of its own for the rest: a turn beside a
// committed state, and a fork, cost at most one block at first.
//
// INTERNAL anywhere: the device failed. Engine thread only. Part of StatePool,
// which owns it and says which slots there are; nobody else uses it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"

namespace engram {

// What attention layers keep of a token: `width` keys and as many values in
// each layer.
struct KeyValueShape {
  int64_t layers = 0;
  int64_t width = 0;     // heads head_dim
  int64_t head_dim = 0;  // for who looks into a block

  size_t token_bytes() const { return 2 * layers * width * sizeof(float); }
  size_t block_bytes() const { return kKeyValueBlockTokens * token_bytes(); }
};

// Blocks that hold so many tokens.
int64_t KeyValueBlocks(int64_t tokens);

struct KeyValueUse {
  int64_t blocks = 0;    // there are
  int64_t used = 0;      // held by slots; one that several share counts once
  int64_t reserved = 0;  // set apart for slots and not taken yet

  int64_t available() const { return blocks - used - reserved; }
};

class KeyValuePool {
 public:
  // `backend` must outlive the pool. INVALID_ARGUMENT if `bytes` is less than a
  // block; RESOURCE_EXHAUSTED if memory is short.
  static absl::StatusOr<std::unique_ptr<KeyValuePool>> Create(
      Backend* backend, KeyValueShape shape, size_t bytes, int slots);

  KeyValueUse use() const;
  // What one slot holds and may still take; what it shares is counted.
  int64_t claimed(int slot) const {
    return static_cast<int64_t>(slots_[slot].blocks.size()) +
           slots_[slot].reserved;
  }

  int64_t tokens(int slot) const { return slots_[slot].tokens; }
  absl::Span<const int32_t> blocks_of(int slot) const {
    return slots_[slot].blocks;
  }
  // The blocks of a slot as they are saved.
  size_t bytes(int slot) const {
    return slots_[slot].blocks.size() * shape_.block_bytes();
  }

  // Sets `blocks` apart for the slot, beyond those it holds. False if fewer are
  // available.
  bool Reserve(int slot, int64_t blocks);
  // What is reserved for the slot is available again.
  void EndReservation(int slot);

  // The slot holds `tokens` more, whose keys and values are still to be
  // written. REQUIRES: the blocks for them are reserved for it or available.
  absl::Status Append(int slot, int64_t tokens);
  // The last `tokens` that were appended are none after all; the blocks that
  // only they needed are reserved for the slot again.
  void TakeBack(int slot, int64_t tokens);
  // The slot holds nothing, and nothing is reserved for it.
  void Free(int slot);
  // The slot holds nothing; its reservation stays.
  void Clear(int slot);
  // `target` holds what `source` holds. Nothing if they are one. What target
  // alone held is set apart for it, so that a sequence which goes to and fro
  // between two slots never needs more than was reserved for them. REQUIRES: as
  // for Append, a block if the last of `source` is not full.
  absl::Status Copy(int target, int source);
  // What the slot holds is bytes(slot) of host memory: block by block, each
  // [layers][block]. Begins to copy `count` of them, from `begin` on; the event
  // is that of all. REQUIRES: 0 < count, begin + count <= bytes(slot).
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginSavePart(
      int slot, size_t begin, size_t count, void* target) const;
  // Where in those bytes one layer's share of a slot's block is.
  size_t SavedAt(int64_t layer, int64_t index) const {
    const size_t block_bytes = shape_.block_bytes();
    return index * block_bytes + layer * (block_bytes / shape_.layers);
  }
  // The inverse of all of them, for a slot of `tokens`. REQUIRES: tokens > 0,
  // and as for Append.
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginRestore(int slot,
                                                            const void* source,
                                                            int64_t tokens);

  // One layer's share of every block, for Attention.
  LayerShares Layer(int64_t layer) const;

 private:
  struct Slot {
    int64_t tokens = 0;
    int64_t reserved = 0;
    std::vector<int32_t> blocks;
  };

  KeyValuePool(Backend* backend, KeyValueShape shape, int64_t blocks,
               int slots);
  // A block for the slot that is all zeros.
  absl::StatusOr<int32_t> TakeBlock(Slot* slot);
  void DropBlocks(Slot* slot);
  char* At(int32_t block) const;

  Backend* const backend_;
  const KeyValueShape shape_;
  std::unique_ptr<Buffer> buffer_;  // [blocks, block_bytes]
  std::vector<int> owners_;         // slots that hold a block, per block
  std::vector<int32_t> free_;
  int64_t reserved_ = 0;  // of all slots
  std::vector<Slot> slots_;
};

}  // namespace engram

// StatePool: the states of all slots of one model, allocated once.
//
// A state is a list of components, e.g. Mamba's conv_state and ssm_state of
// every layer. A slot is one piece of memory, [component][layer][shape], in
// which every component begins at a multiple of kStateAlignment bytes: it is
// cleared, copied, saved and restored by one call of the back end, whatever it
// is made of. Kernels get a layer's share of the first slot and the distance
// from one slot to the next.
//
// Of a model with attention layers the state grows: a slot then also holds the
// keys and values of its tokens, in blocks that slots share where their
// sequences begin alike (model/key_value_pool.h). Nothing may run out of blocks
// half way: whoever takes a slot says how long its sequence can become, and
// what that needs is set apart until the slot is sealed or freed.
//
// Engine thread only. The pool knows nothing of sessions: who holds a slot is
// the engine's affair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "model/key_value_pool.h"

namespace engram {

inline constexpr size_t kStateAlignment = 256;

struct StateComponent {
  std::string name;            // "conv_state", "ssm_state", "last_hidden"
  int64_t layers = 0;          // 1 for what the model has once
  std::vector<int64_t> shape;  // of one layer's share, row-major

  int64_t floats() const;  // product of shape
};

class StatePool {
 public:
  // `backend` must outlive the pool. `kv_bytes` are for the keys and values of
  // a model with attention layers, and not looked at without. INVALID_ARGUMENT
  // if they are less than a block; RESOURCE_EXHAUSTED if memory is short, with
  // the bytes asked for.
  static absl::StatusOr<std::unique_ptr<StatePool>> Create(
      Backend* backend, std::vector<StateComponent> components, int slots,
      KeyValueShape key_values = {}, size_t kv_bytes = 0);

  int slots() const { return slots_; }
  int free_slots() const { return static_cast<int>(free_.size()); }
  // Of one slot's components, with what lies between them.
  size_t state_bytes() const { return state_bytes_; }
  const std::vector<StateComponent>& components() const { return components_; }
  // Blocks of keys and values; all 0 without attention layers.
  KeyValueUse key_values() const;

  // A slot for a sequence of at most `tokens` tokens, with the blocks that it
  // needs beyond those that it will share with slot `source`, which it begins
  // as a copy of; -1: it begins otherwise. Its content is not set: the caller
  // fills it by Clear, CopySlot or Restore. -1 if no slot is free, or too few
  // blocks are.
  int TryTake(int64_t tokens, int source = -1);
  // Whether there would be blocks for such a sequence if all slots but `others`
  // were free. Blocks that those share count several times, so that it may say
  // no too early; with no others it never does.
  bool FitsBeside(absl::Span<const int> others, int64_t tokens,
                  int source = -1) const;
  // A slot that is all zeros, as at the start of a sequence, and that sets
  // nothing apart; -1 if none is free. REQUIRES: a sound device.
  int Take();
  // REQUIRES: taken.
  void Free(int slot);
  bool IsTaken(int slot) const {
    return slot >= 0 && slot < slots_ && taken_[slot];
  }

  // The slots named below must be taken. INTERNAL: the device failed, and what
  // the slot or the block then holds is worth nothing.

  // Nothing is fed to the slot for now: what is set apart for it and not needed
  // yet is free again.
  void Seal(int slot);
  absl::Status Clear(int slot);  // all zeros, as before the first token
  absl::Status CopySlot(int target, int source);
  // What was fed to it.
  int64_t tokens(int slot) const { return tokens_[slot]; }

  // What Save writes of a slot: its components, then its keys and values.
  size_t bytes(int slot) const;
  // Host memory for that, which the device copies at full speed as long as
  // there is page-locked memory for it; then ordinary memory.
  // RESOURCE_EXHAUSTED with the bytes asked for.
  struct HostMemory {
    std::unique_ptr<Buffer> buffer;
    // What begins a copy from or to it goes on at once, however long that is.
    bool is_copied_beside = false;
  };
  absl::StatusOr<HostMemory> AllocateHost(size_t bytes) const;
  // Begin a copy, which is done when the event is reached, as the back end's
  // (kernels/backend.h). Until then the slot must neither change nor be freed.
  // Of the state as one block of bytes(slot), `count` bytes from `begin` on to
  // `part`, host memory. REQUIRES: begin + count <= bytes(slot).
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginSavePart(int slot,
                                                             size_t begin,
                                                             size_t count,
                                                             void* part) const;
  // The inverse of all of them, for the state after `tokens` tokens; nor may
  // the slot be read.
  absl::StatusOr<std::unique_ptr<DeviceEvent>> BeginRestore(int slot,
                                                            const void* block,
                                                            int64_t tokens);
  // The same of all of it, until it is done.
  absl::Status Save(int slot, void* block) const;
  absl::Status Restore(int slot, const void* block, int64_t tokens);
  // Where one layer's share of a component is in such a block, and, after the
  // components, one attention layer's keys and values of the tokens from
  // kKeyValueBlockTokens `index` on.
  const float* SavedLayer(const void* block, int component,
                          int64_t layer) const;
  const float* SavedKeyValues(const void* block, int64_t layer,
                              int64_t index) const;

  // --- For the model.

  // `tokens` more are fed to what `slot_in` holds, and what comes of it will
  // lie in `slot_out`: the step writes it there, keys and values included; so
  // far that slot only knows of them. If both are one slot its state is written
  // over, else that of slot_in survives. REQUIRES: the blocks for them are set
  // apart for slot_out or free.
  absl::Status Append(int slot_in, int slot_out, int64_t tokens);
  // The last `tokens` that were appended to it were not fed after all.
  void TakeBack(int slot, int64_t tokens);
  // Where the keys and values of its tokens lie; nothing without attention.
  absl::Span<const int32_t> blocks_of(int slot) const;
  // One layer's share of a component: `shape` in each slot.
  LayerShares Layer(int component, int64_t layer) const;
  // One attention layer's share of each block.
  LayerShares KeyValueLayer(int64_t layer) const;

 private:
  StatePool(Backend* backend, std::vector<StateComponent> components,
            int slots);
  // Of one slot's memory.
  char* At(int slot) const;
  // The blocks that such a sequence needs and does not share.
  int64_t BlocksFor(int64_t tokens, int source) const;

  Backend* const backend_;
  const std::vector<StateComponent> components_;
  const int slots_;
  std::vector<size_t> offsets_;  // of the components in a slot, in bytes
  size_t state_bytes_ = 0;
  std::unique_ptr<Buffer> buffer_;            // [slots, state_bytes_]
  std::unique_ptr<KeyValuePool> key_values_;  // of attention layers
  std::vector<int> free_;
  std::vector<bool> taken_;
  std::vector<int64_t> tokens_;
};

}  // namespace engram

// StatePool: the recurrent states of all slots of one model, allocated once.
//
// A state is a list of components, e.g. Mamba's conv_state and ssm_state of
// every layer. Each component lies as [layer][slot][floats], so that one layer
// of all slots is one array for the kernels; a slot's pieces are gathered into
// one block of bytes for RAM, store and file.
//
// Of a model with attention layers the state grows: beside the components,
// whose size is fixed, a slot then holds the keys and values of its tokens
// (key_values(), model/key_value_pool.h).
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
#include "kernels/backend.h"
#include "model/key_value_pool.h"

namespace engram {

struct StateComponent {
  std::string name;            // "conv_state", "ssm_state", "last_hidden"
  int64_t layers = 0;          // 1 for what the model has once
  std::vector<int64_t> shape;  // of one layer's share, row-major

  int64_t floats() const;  // product of shape
};

class StatePool {
 public:
  // `backend` must outlive the pool. RESOURCE_EXHAUSTED if memory is short,
  // with the bytes asked for. `key_values` only for a model with attention
  // layers, and of as many slots.
  static absl::StatusOr<std::unique_ptr<StatePool>> Create(
      Backend* backend, std::vector<StateComponent> components, int slots,
      std::unique_ptr<KeyValuePool> key_values = nullptr);

  int slots() const { return slots_; }
  int free_slots() const { return static_cast<int>(free_.size()); }
  // Bytes of the components of one state.
  size_t state_bytes() const { return state_bytes_; }
  // nullptr unless the model has attention layers.
  KeyValuePool* key_values() { return key_values_.get(); }
  // What Save writes of a slot: the components, then its keys and values.
  size_t bytes(int slot) const;
  const std::vector<StateComponent>& components() const { return components_; }

  // A slot that is all zeros, as at the start of a sequence; -1 if none is
  // free.
  int Take();
  // A slot whose content is not set yet: the caller fills it by Clear, CopySlot
  // or Restore before use; -1 if none is free.
  int TakeForOverwrite();
  // REQUIRES: taken.
  void Free(int slot);
  bool IsTaken(int slot) const {
    return slot >= 0 && slot < slots_ && taken_[slot];
  }

  // The slots named below must be taken.
  void Clear(int slot);  // all zeros
  void CopySlot(int target, int source);
  // The whole state as one block of bytes(slot): components in order, each
  // [layers][shape], then keys and values. `block` is host memory.
  void Save(int slot, void* block) const;
  // Those of its bytes from `begin` on. REQUIRES: begin + count <= bytes(slot).
  void SavePart(int slot, size_t begin, size_t count, void* part) const;
  // The inverse, for the state after `tokens` tokens.
  void Restore(int slot, const void* block, int64_t tokens);

  // [slots, shape] of one layer of a component; for the model's kernels.
  float* Layer(int component, int64_t layer);

 private:
  StatePool(Backend* backend, std::vector<StateComponent> components, int slots,
            std::unique_ptr<KeyValuePool> key_values);
  // One slot's share of one layer of a component.
  float* Piece(int component, int64_t layer, int slot) const;

  Backend* const backend_;
  const std::vector<StateComponent> components_;
  const int slots_;
  const std::unique_ptr<KeyValuePool> key_values_;
  size_t state_bytes_ = 0;
  std::vector<std::unique_ptr<Buffer>> buffers_;  // per component
  std::vector<int> free_;
  std::vector<bool> taken_;
};

}  // namespace engram

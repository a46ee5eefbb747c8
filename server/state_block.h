// StateBlock: a state in RAM, as StatePool::Save wrote it:
// ModelCapacity::StateBytes of its tokens. Once it is shared it never changes.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "model/state_pool.h"
#include "server/footprint.h"

namespace engram {

class StateBlock {
 public:
  // `memory` is the host's, of StatePool::AllocateHost where a device copies.
  explicit StateBlock(std::unique_ptr<Buffer> memory)
      : memory_(std::move(memory)) {}

  size_t size() const { return memory_->bytes(); }
  // What it takes of the heap.
  size_t bytes() const { return HeapBytes(size()); }
  std::byte* data() { return static_cast<std::byte*>(memory_->data()); }
  const std::byte* data() const {
    return static_cast<const std::byte*>(memory_->data());
  }

 private:
  const std::unique_ptr<Buffer> memory_;
};

}  // namespace engram

// StateBlock: a state in RAM, as StatePool::Save wrote it:
// ModelCapacity::StateBytes of its tokens. Once it is shared it never changes.
#pragma once

#include <cstddef>
#include <memory>

#include "server/footprint.h"

namespace engram {

class StateBlock {
 public:
  // Its memory is not touched before it is written.
  explicit StateBlock(size_t bytes)
      : size_(bytes), bytes_(new std::byte[bytes]) {}

  size_t size() const { return size_; }
  // What it takes of the heap.
  size_t bytes() const { return HeapBytes(size_); }
  std::byte* data() { return bytes_.get(); }
  const std::byte* data() const { return bytes_.get(); }

 private:
  const size_t size_;
  const std::unique_ptr<std::byte[]> bytes_;
};

}  // namespace engram

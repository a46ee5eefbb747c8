// BlockMemory: the shared memory of one block. What is behind its end cannot be
// touched, and what is in it at first is no number.
#pragma once

#include <cstddef>

namespace engram::emulation {

inline constexpr size_t kMostSharedBytes = 227 * 1024;

class BlockMemory {
 public:
  BlockMemory();
  ~BlockMemory();
  BlockMemory(const BlockMemory&) = delete;
  BlockMemory& operator=(const BlockMemory&) = delete;

  // For a new block. REQUIRES: at most kMostSharedBytes.
  void Assign(size_t bytes);
  char* data() const { return data_; }
  bool Contains(const void* address, size_t bytes) const {
    const size_t offset =
        static_cast<size_t>(static_cast<const char*>(address) - data_);
    return offset <= bytes_ && bytes <= bytes_ - offset;
  }

 private:
  char* begin_;
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace engram::emulation

// Footprint: what values take of the heap beside their own size, as the
// allocator counts it, so that a sum of them is what the process grows by.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace engram {

// Of one allocation of `bytes`: glibc's malloc adds eight bytes and goes in
// steps of 16, from 32 on.
inline size_t HeapBytes(size_t bytes) {
  if (bytes == 0) return 0;
  return std::max<size_t>(32, (bytes + 8 + 15) / 16 * 16);
}

// Of a value that std::make_shared made: the counts lie before it.
template <typename Value>
size_t SharedBytes() {
  return HeapBytes(16 + sizeof(Value));
}

inline size_t HeapBytesOf(const std::string& text) {
  // Up to 15 characters lie in the string itself.
  return text.capacity() <= 15 ? 0 : HeapBytes(text.capacity() + 1);
}

template <typename Value>
size_t HeapBytesOf(const std::vector<Value>& values) {
  return HeapBytes(values.capacity() * sizeof(Value));
}

// A node of a std::map: colour and three links before the value.
template <typename Key, typename Value>
constexpr size_t kMapNodeBytes = 32 + sizeof(std::pair<const Key, Value>);

// An entry of an absl::btree_map, whose nodes are two thirds full, roughly.
template <typename Key, typename Value>
constexpr size_t kTreeEntryBytes = sizeof(std::pair<const Key, Value>) * 3 / 2;

inline size_t HeapBytesOf(const std::map<std::string, std::string>& texts) {
  size_t bytes = 0;
  for (const auto& [key, value] : texts) {
    bytes += HeapBytes(kMapNodeBytes<std::string, std::string>) +
             HeapBytesOf(key) + HeapBytesOf(value);
  }
  return bytes;
}

}  // namespace engram

// StopMatcher: finds strings in a text that comes byte by byte, all at once.
// Source: Aho and Corasick, "Efficient String Matching: An Aid to Bibliographic
// Search", 1975.
//
// A byte costs the same however long the text and however many the strings
// (but for the search among at most 256 bytes that may follow a prefix); memory
// is 21 bytes for each byte of the strings.
//
// Not thread-safe; one per text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace engram {

class StopMatcher {
 public:
  // REQUIRES: no empty string, and fewer than 2^31 bytes in all.
  explicit StopMatcher(const std::vector<std::string>& strings);

  // Takes the next byte of the text. The length of the longest string that ends
  // with it, or 0.
  size_t Append(char byte);

  // The length of the longest end of the text that begins a string: all that
  // may still become part of a match.
  size_t pending() const { return nodes_[at_].depth; }

  // What comes next is not the continuation of what came before.
  void Restart() { at_ = kRoot; }

 private:
  // A prefix of a string. The children of one node are a chain of siblings.
  struct Node {
    int32_t depth = 0;    // bytes of the prefix
    int32_t longest = 0;  // of the strings that end here, 0 if none does
    int32_t suffix = 0;   // the longest end of the prefix that is a prefix too
    int32_t first_child = kNone;
    int32_t next_sibling = kNone;
  };

  static constexpr int32_t kRoot = 0;
  static constexpr int32_t kNone = -1;

  void Add(const std::string& string);
  void LinkSuffixes();
  int32_t Child(int32_t node, char byte) const;
  // Where `byte` leads from `node`, by way of its suffixes.
  int32_t Next(int32_t node, char byte) const;

  std::vector<Node> nodes_ = {Node()};
  std::vector<char> bytes_ = {0};    // by node: the last one of its prefix
  std::array<int32_t, 256> starts_;  // children of the root
  int32_t at_ = kRoot;
};

}  // namespace engram

#include "server/stop_matcher.h"

namespace engram {

StopMatcher::StopMatcher(const std::vector<std::string>& strings) {
  starts_.fill(kNone);
  size_t most = nodes_.size();
  for (const std::string& string : strings) most += string.size();
  // As they grew by themselves they could come to hold twice as many.
  nodes_.reserve(most);
  bytes_.reserve(most);
  for (const std::string& string : strings) Add(string);
  LinkSuffixes();
}

void StopMatcher::Add(const std::string& string) {
  int32_t node = kRoot;
  for (const char byte : string) {
    int32_t child = Child(node, byte);
    if (child == kNone) {
      child = static_cast<int32_t>(nodes_.size());
      Node made;
      made.depth = nodes_[node].depth + 1;
      if (node == kRoot) {
        starts_[static_cast<uint8_t>(byte)] = child;
      } else {
        made.next_sibling = nodes_[node].first_child;
        nodes_[node].first_child = child;
      }
      nodes_.push_back(made);
      bytes_.push_back(byte);
    }
    node = child;
  }
  nodes_[node].longest = nodes_[node].depth;
}

// Breadth first, so that a node's suffix, which is shorter, is done before it.
void StopMatcher::LinkSuffixes() {
  std::vector<int32_t> queue;
  for (const int32_t start : starts_) {
    if (start != kNone) queue.push_back(start);  // its suffix is the root
  }
  for (size_t done = 0; done < queue.size(); ++done) {
    const int32_t node = queue[done];
    for (int32_t child = nodes_[node].first_child; child != kNone;
         child = nodes_[child].next_sibling) {
      const int32_t suffix = Next(nodes_[node].suffix, bytes_[child]);
      nodes_[child].suffix = suffix;
      // A string that ends here as a whole is longer than any that ends within.
      if (nodes_[child].longest == 0) {
        nodes_[child].longest = nodes_[suffix].longest;
      }
      queue.push_back(child);
    }
  }
}

int32_t StopMatcher::Child(int32_t node, char byte) const {
  if (node == kRoot) return starts_[static_cast<uint8_t>(byte)];
  int32_t child = nodes_[node].first_child;
  while (child != kNone && bytes_[child] != byte) {
    child = nodes_[child].next_sibling;
  }
  return child;
}

int32_t StopMatcher::Next(int32_t node, char byte) const {
  while (true) {
    const int32_t child = Child(node, byte);
    if (child != kNone) return child;
    if (node == kRoot) return kRoot;
    node = nodes_[node].suffix;
  }
}

size_t StopMatcher::Append(char byte) {
  at_ = Next(at_, byte);
  return nodes_[at_].longest;
}

}  // namespace engram

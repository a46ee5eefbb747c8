#include "server/remembered_turns.h"

#include <algorithm>

#include "server/footprint.h"

namespace engram {

void RememberedTurns::Add(uint64_t digest, int64_t limit) {
  const size_t size = digests_.size();
  if (static_cast<int64_t>(size) < limit) {
    if (size == digests_.capacity()) {
      // Less in vain than by doubling, and most sessions have few turns.
      digests_.reserve(
          std::min<size_t>(limit, size + std::max<size_t>(3, size / 4)));
    }
    digests_.push_back(digest);
  } else {
    digests_[committed_ % size] = digest;
  }
  ++committed_;
}

std::optional<int64_t> RememberedTurns::Find(uint64_t digest) const {
  const auto found = std::find(digests_.begin(), digests_.end(), digest);
  if (found == digests_.end()) return std::nullopt;
  const auto size = static_cast<int64_t>(digests_.size());
  const int64_t place = found - digests_.begin();
  const int64_t newest = committed_ - 1;
  // How many turns ago, around the ring.
  const int64_t age = ((newest - place) % size + size) % size;
  return begin_ + committed_ - age;
}

int64_t RememberedTurns::forgotten() const {
  const auto size = static_cast<int64_t>(digests_.size());
  return committed_ > size ? begin_ + committed_ - size : 0;
}

size_t RememberedTurns::bytes() const { return HeapBytesOf(digests_); }

}  // namespace engram

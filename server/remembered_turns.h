// RememberedTurns: which requests have committed on a session, eight bytes
// each, so that none of them runs twice as long as the session lives.
//
// Every turn that commits adds one to the session's version, so that the place
// of an id in the list is its version. When more turns commit than are
// remembered, the oldest are forgotten, and forgotten() says so: from then on
// an id that is not found may still have committed.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace engram {

class RememberedTurns {
 public:
  // Of a session that begins at `version`, with nothing of its own before it.
  explicit RememberedTurns(int64_t version = 0) : begin_(version) {}

  // A turn has committed, by the ShortDigest of its request_id. `limit` is the
  // same in every call, and at least 1.
  void Add(uint64_t digest, int64_t limit);

  // The version that the turn committed as.
  std::optional<int64_t> Find(uint64_t digest) const;

  // Turns up to this version may be forgotten; 0: none is.
  int64_t forgotten() const;

  size_t bytes() const;

 private:
  int64_t begin_ = 0;      // the version before the first turn
  int64_t committed_ = 0;  // turns since
  // A ring once it is full: turn i (from 0) is at i modulo its size.
  std::vector<uint64_t> digests_;
};

}  // namespace engram

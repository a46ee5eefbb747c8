// DepartedSessions: the ids of sessions that left without their owner's word,
// and why, so that a loss is told and not silent. Bounded: the oldest is
// forgotten first.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <list>
#include <string>

#include "absl/container/btree_map.h"
#include "absl/strings/string_view.h"

namespace engram {

class DepartedSessions {
 public:
  explicit DepartedSessions(size_t limit) : limit_(limit) {}

  void Add(std::string id, std::string reason);
  // Its owner knows. False if it was not there.
  bool Erase(absl::string_view id);
  // nullptr if it is not there.
  const std::string* ReasonOf(absl::string_view id) const;

  size_t bytes() const { return bytes_; }

 private:
  struct Departure {
    std::string id;
    std::string reason;

    size_t bytes() const;
  };
  using Order = std::list<Departure>;

  void Erase(Order::iterator departure);

  const size_t limit_;
  Order order_;  // oldest first
  absl::btree_map<absl::string_view, Order::iterator> by_id_;
  size_t bytes_ = 0;
};

}  // namespace engram

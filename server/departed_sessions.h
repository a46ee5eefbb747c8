// DepartedSessions: the names of sessions that left without their owner's word,
// and why, so that a loss is told and not silent. Bounded: the oldest of the
// tenant with the most of them is forgotten first, so that nobody's are for
// the sake of another who loses many.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <list>
#include <string>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/strings/string_view.h"
#include "server/by_tenant.h"
#include "server/session_name.h"
#include "server/tenants_by_load.h"

namespace engram {

class DepartedSessions {
 public:
  explicit DepartedSessions(size_t limit) : limit_(limit) {}

  void Add(const SessionName& name, std::string reason);
  // Its owner knows. False if it was not there.
  bool Erase(const SessionName& name);
  // nullptr if it is not there.
  const std::string* ReasonOf(const SessionName& name) const;

  size_t bytes() const { return bytes_; }

 private:
  struct Departure {
    int tenant = 0;  // its number
    std::string id;
    std::string reason;

    size_t bytes() const;
  };
  using Order = std::list<Departure>;
  // The tenant's number, and the departure's own id.
  using Key = std::pair<int, absl::string_view>;

  static Key KeyOf(const SessionName& name) {
    return {NumberOf(name.tenant), name.id};
  }

  void Erase(Order::iterator departure);

  const size_t limit_;
  ByTenant<Order> orders_;  // oldest first
  TenantsByLoad by_count_;
  absl::btree_map<Key, Order::iterator> by_name_;
  size_t bytes_ = 0;
};

}  // namespace engram

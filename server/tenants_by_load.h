// TenantsByLoad: tenants in order of what they take of something for their
// weight, most first, so that whoever has to give something back is found at
// once, however many there are.
//
// Not thread-safe.
#pragma once

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"

namespace engram {

class TenantsByLoad {
 public:
  // Loads and tenants' numbers.
  using Order = absl::btree_set<std::pair<double, int>, std::greater<>>;

  // `load`: what the tenant takes, for one of its weight; not negative.
  void Set(int tenant, double load);
  // It has nothing to give back.
  void Erase(int tenant);

  const Order& order() const { return order_; }
  // The load of one that is in it. A number below 0 is nobody's.
  std::optional<double> Find(int tenant) const;

 private:
  double& LoadOf(int tenant);

  Order order_;
  std::vector<double> loads_;  // by number; below 0: none
};

}  // namespace engram

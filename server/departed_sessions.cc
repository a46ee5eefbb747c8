#include "server/departed_sessions.h"

#include <iterator>
#include <utility>

#include "server/footprint.h"

namespace engram {
namespace {

constexpr size_t kListLinks = 2 * sizeof(void*);

}  // namespace

size_t DepartedSessions::Departure::bytes() const {
  return HeapBytes(sizeof(Departure) + kListLinks) + HeapBytesOf(id) +
         HeapBytesOf(reason) + kTreeEntryBytes<Key, Order::iterator>;
}

void DepartedSessions::Add(const SessionName& name, std::string reason) {
  Erase(name);
  const int tenant = NumberOf(name.tenant);
  Order& order = orders_.At(tenant);
  order.push_back({tenant, name.id, std::move(reason)});
  by_name_.emplace(Key(tenant, order.back().id), std::prev(order.end()));
  by_count_.Set(tenant, static_cast<double>(order.size()));
  bytes_ += order.back().bytes();
  while (by_name_.size() > limit_) {
    Erase(orders_.At(by_count_.order().begin()->second).begin());
  }
}

bool DepartedSessions::Erase(const SessionName& name) {
  const auto found = by_name_.find(KeyOf(name));
  if (found == by_name_.end()) return false;
  Erase(found->second);
  return true;
}

void DepartedSessions::Erase(Order::iterator departure) {
  bytes_ -= departure->bytes();
  const int tenant = departure->tenant;
  Order& order = orders_.At(tenant);
  by_name_.erase(Key(tenant, departure->id));
  order.erase(departure);
  if (order.empty()) return by_count_.Erase(tenant);
  by_count_.Set(tenant, static_cast<double>(order.size()));
}

const std::string* DepartedSessions::ReasonOf(const SessionName& name) const {
  const auto found = by_name_.find(KeyOf(name));
  return found == by_name_.end() ? nullptr : &found->second->reason;
}

}  // namespace engram

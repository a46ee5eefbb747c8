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
  order_.push_back({NumberOf(name.tenant), name.id, std::move(reason)});
  by_name_.emplace(Key(order_.back().tenant, order_.back().id),
                   std::prev(order_.end()));
  bytes_ += order_.back().bytes();
  while (order_.size() > limit_) Erase(order_.begin());
}

bool DepartedSessions::Erase(const SessionName& name) {
  const auto found = by_name_.find(KeyOf(name));
  if (found == by_name_.end()) return false;
  Erase(found->second);
  return true;
}

void DepartedSessions::Erase(Order::iterator departure) {
  bytes_ -= departure->bytes();
  by_name_.erase(Key(departure->tenant, departure->id));
  order_.erase(departure);
}

const std::string* DepartedSessions::ReasonOf(const SessionName& name) const {
  const auto found = by_name_.find(KeyOf(name));
  return found == by_name_.end() ? nullptr : &found->second->reason;
}

}  // namespace engram

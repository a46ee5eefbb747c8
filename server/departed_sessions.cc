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
         HeapBytesOf(reason) +
         kTreeEntryBytes<absl::string_view, Order::iterator>;
}

void DepartedSessions::Add(std::string id, std::string reason) {
  Erase(id);
  order_.push_back({std::move(id), std::move(reason)});
  by_id_.emplace(order_.back().id, std::prev(order_.end()));
  bytes_ += order_.back().bytes();
  while (order_.size() > limit_) Erase(order_.begin());
}

bool DepartedSessions::Erase(absl::string_view id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return false;
  Erase(found->second);
  return true;
}

void DepartedSessions::Erase(Order::iterator departure) {
  bytes_ -= departure->bytes();
  by_id_.erase(departure->id);
  order_.erase(departure);
}

const std::string* DepartedSessions::ReasonOf(absl::string_view id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &found->second->reason;
}

}  // namespace engram

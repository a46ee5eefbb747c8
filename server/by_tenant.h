// ByTenant: something of each tenant, by the tenant's number, made when it is
// first asked for. It stays where it is.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace engram {

template <typename T>
class ByTenant {
 public:
  // The tenant's own, to be changed.
  T& At(int tenant) {
    if (tenant >= size()) all_.resize(tenant + size_t{1});
    std::unique_ptr<T>& own = all_[tenant];
    if (own == nullptr) own = std::make_unique<T>();
    return *own;
  }
  // As At would have made it, if there is none.
  const T& Get(int tenant) const {
    static const T* const none = new T();
    const bool found = tenant < size() && all_[tenant] != nullptr;
    return found ? *all_[tenant] : *none;
  }
  // One more than the greatest number that At was asked for.
  int size() const { return static_cast<int>(all_.size()); }

 private:
  std::vector<std::unique_ptr<T>> all_;
};

}  // namespace engram

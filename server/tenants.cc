#include "server/tenants.h"

#include <memory>

namespace engram {

Tenants::Tenants() : nameless_(std::make_shared<Tenant>("", 0)) {
  absl::MutexLock lock(&mutex_);
  all_.push_back(nameless_);
  by_name_.emplace("", nameless_);
}

TenantHandle Tenants::Find(absl::string_view name) const {
  absl::MutexLock lock(&mutex_);
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

std::vector<TenantHandle> Tenants::all() const {
  absl::MutexLock lock(&mutex_);
  return all_;
}

void Tenants::Update(const std::map<std::string, TenantLimits>& limits) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [name, of_name] : limits) {
    TenantHandle& tenant = by_name_[name];
    if (tenant == nullptr) {
      tenant = std::make_shared<Tenant>(name, static_cast<int>(all_.size()));
      all_.push_back(tenant);
    }
    tenant->SetLimits(of_name);
  }
}

}  // namespace engram

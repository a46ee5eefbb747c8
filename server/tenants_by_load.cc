#include "server/tenants_by_load.h"

namespace engram {
namespace {

constexpr double kNone = -1;

}  // namespace

void TenantsByLoad::Set(int tenant, double load) {
  double& known = LoadOf(tenant);
  if (known == load) return;
  if (known >= 0) order_.erase({known, tenant});
  known = load;
  order_.emplace(load, tenant);
}

void TenantsByLoad::Erase(int tenant) {
  double& known = LoadOf(tenant);
  if (known >= 0) order_.erase({known, tenant});
  known = kNone;
}

std::optional<double> TenantsByLoad::Find(int tenant) const {
  const bool known = tenant >= 0 && tenant < static_cast<int>(loads_.size()) &&
                     loads_[tenant] >= 0;
  return known ? std::optional<double>(loads_[tenant]) : std::nullopt;
}

double& TenantsByLoad::LoadOf(int tenant) {
  if (tenant >= static_cast<int>(loads_.size())) {
    loads_.resize(tenant + 1, kNone);
  }
  return loads_[tenant];
}

}  // namespace engram

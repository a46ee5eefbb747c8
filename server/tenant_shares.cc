#include "server/tenant_shares.h"

#include <algorithm>
#include <numeric>

namespace engram {

std::vector<double> ShareByWeight(const std::vector<TenantDemand>& demands,
                                  double tokens) {
  // Those who want least for their weight first: what they leave is known when
  // the others come.
  std::vector<size_t> order(demands.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t left, size_t right) {
    return demands[left].tokens * demands[right].weight <
           demands[right].tokens * demands[left].weight;
  });
  double weights = 0;
  for (const TenantDemand& demand : demands) weights += demand.weight;
  std::vector<double> shares(demands.size());
  for (size_t index : order) {
    const TenantDemand& demand = demands[index];
    shares[index] = std::min(static_cast<double>(demand.tokens),
                             tokens * demand.weight / weights);
    tokens -= shares[index];
    weights -= demand.weight;
  }
  return shares;
}

std::vector<double> TenantShares::Share(
    const std::vector<TenantDemand>& demands, double tokens, double most) {
  most_ = most;
  std::vector<double> shares = ShareByWeight(demands, tokens);
  std::map<int, double> owed;
  for (size_t i = 0; i < demands.size(); ++i) {
    const auto before = owed_.find(demands[i].tenant);
    if (before != owed_.end()) shares[i] += before->second;
    owed[demands[i].tenant] = shares[i];
  }
  owed_ = std::move(owed);
  return shares;
}

void TenantShares::Fed(const std::vector<TenantDemand>& demands,
                       const std::vector<int64_t>& fed) {
  for (size_t i = 0; i < demands.size(); ++i) {
    // Who had all that it wanted is owed nothing.
    const double most = fed[i] < demands[i].tokens ? most_ : 0;
    double& owed = owed_[demands[i].tenant];
    owed = std::clamp(owed - static_cast<double>(fed[i]), -most_, most);
  }
}

}  // namespace engram

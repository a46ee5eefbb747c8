// TenantShares: how the tokens of an engine's steps are shared between tenants,
// by deficit round robin: each has its share of every step by weight, and what
// others do not want of theirs besides. What it could not use of its share,
// since a prompt is not cut everywhere, is owed to it in the steps that follow;
// who has nothing to feed saves nothing.
//
// Pure. Engine thread only.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace engram {

// What the candidates of one tenant want of a step.
struct TenantDemand {
  int tenant = 0;  // Tenant::number
  double weight = 1;
  int64_t tokens = 0;  // > 0
};

class TenantShares {
 public:
  // Shares `tokens` among all who have something to feed. The tokens that each
  // may have, in the order of `demands`: their sum may be more or less than
  // `tokens` by what is owed. Nobody is owed more than `most`, nor owes more.
  std::vector<double> Share(const std::vector<TenantDemand>& demands,
                            double tokens, double most);
  // What each of them was fed in that step.
  void Fed(const std::vector<TenantDemand>& demands,
           const std::vector<int64_t>& fed);
  // One has the steps for itself.
  void Forget() { owed_.clear(); }

 private:
  // By tenant; negative: it has had more than its share. Of those alone who had
  // something to feed in the last step.
  std::map<int, double> owed_;
  double most_ = 0;
};

// What of `tokens` belongs to each: as much as it wants if that is less than
// its share by weight; what it leaves is shared by the others.
std::vector<double> ShareByWeight(const std::vector<TenantDemand>& demands,
                                  double tokens);

}  // namespace engram

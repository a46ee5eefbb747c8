#include "server/slot_shares.h"

#include <algorithm>

#include "kernels/status.h"

namespace engram {

SlotShares::Turns SlotShares::Of(int tenant) const {
  const auto found = turns_.find(tenant);
  Turns turns = found == turns_.end() ? Turns() : found->second;
  // Who wanted none for a while has saved nothing.
  turns.had = std::max(turns.had, now_);
  return turns;
}

void SlotShares::Took(int tenant, double weight) {
  Turns turns = Of(tenant);
  now_ = turns.had;
  // They have saved nothing, and whoever comes is as they are.
  absl::erase_if(turns_, [this](const auto& one) {
    return one.second.slots == 0 && one.second.had <= now_;
  });
  turns.had += 1 / weight;
  turns.weight = weight;
  ++turns.slots;
  turns_[tenant] = turns;
}

void SlotShares::Gave(int tenant) {
  const auto found = turns_.find(tenant);
  ENGRAM_CHECK(found != turns_.end() && found->second.slots > 0);
  --found->second.slots;
}

double SlotShares::Share(int tenant, double weight) const {
  const auto found = turns_.find(tenant);
  if (found == turns_.end()) return 0;
  return static_cast<double>(found->second.slots) / weight;
}

std::vector<TenantSlots> SlotShares::Named() const {
  std::vector<TenantSlots> named;
  for (const auto& [tenant, turns] : turns_) {
    if (tenant == 0 || turns.slots == 0) continue;
    named.push_back(
        {.tenant = tenant, .weight = turns.weight, .slots = turns.slots});
  }
  return named;
}

bool SlotShares::GoesBefore(const WaitingRequest& left,
                            const WaitingRequest& right) const {
  if (left.tenant != right.tenant) {
    const double left_share = Share(left.tenant, left.weight);
    const double right_share = Share(right.tenant, right.weight);
    if (left_share != right_share) return left_share < right_share;
    const double left_had = Of(left.tenant).had;
    const double right_had = Of(right.tenant).had;
    if (left_had != right_had) return left_had < right_had;
    return left.arrival < right.arrival;
  }
  return engram::GoesBefore(left, right);
}

bool SlotShares::MakesWay(int tenant, double weight,
                          const WaitingRequest& request) const {
  return Share(tenant, weight) >=
         Share(request.tenant, request.weight) + 1 / request.weight;
}

}  // namespace engram

#include "server/tenant_budget.h"

namespace engram {

std::optional<TenantBudget::Share> TenantBudget::Take(const Tenant* tenant,
                                                      size_t bytes,
                                                      Shortage* shortage) {
  absl::MutexLock lock(&mutex_);
  Share share;
  if (tenant != nullptr && tenant->number() != 0) {
    Part& part =
        parts_.try_emplace(tenant->number(), Part{.budget = ByteBudget(limit_)})
            .first->second;
    part.weight = tenant->weight();
    const size_t taken = part.budget.taken();
    const size_t most = PartLimit(part.weight);
    if (taken > 0 && taken + bytes > most) {
      *shortage = {.taken = taken, .limit = most, .of_tenant = true};
      return std::nullopt;
    }
    // None only if there are not so many at all.
    std::optional<ByteBudget::Share> own = part.budget.Take(bytes);
    if (own.has_value()) share.own = *std::move(own);
  }
  std::optional<ByteBudget::Share> all = all_.Take(bytes);
  if (!all.has_value()) {
    *shortage = {.taken = all_.taken(), .limit = limit_};
    return std::nullopt;
  }
  share.all = *std::move(all);
  return share;
}

size_t TenantBudget::PartLimit(double weight) const {
  // One more may come who is like it. Its own is among the others as soon as it
  // has some; nobody without any is asked.
  double weights = weight;
  for (const auto& [number, part] : parts_) {
    if (part.budget.taken() > 0) weights += part.weight;
  }
  return static_cast<size_t>(static_cast<double>(limit_) * weight / weights);
}

}  // namespace engram

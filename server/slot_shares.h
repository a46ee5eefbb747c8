// SlotShares: which tenant is to have the next slot of an engine: the one that
// has fewest for its weight; where several have as few, the one whose turn it
// is, so that those who wait are served by weight even where there are few
// slots.
//
// Pure. Engine thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/sequence.h"

namespace engram {

// What one tenant has.
struct TenantSlots {
  int tenant = 0;
  double weight = 1;
  int64_t slots = 0;
};

class SlotShares {
 public:
  // One of the tenant's sequences has got a slot, or has given it up.
  void Took(int tenant, double weight);
  void Gave(int tenant);

  // Who goes before whom: by tenant, then as engram::GoesBefore.
  bool GoesBefore(const WaitingRequest& left,
                  const WaitingRequest& right) const;
  // Whether a sequence of that tenant is to make way for one of another that
  // waits: it has at least as many slots for its weight as the other would have
  // with one more. Between two who cannot have equally many, the odd one goes
  // to and fro.
  bool MakesWay(int tenant, double weight, const WaitingRequest& request) const;
  // Slots for each of its weight.
  double Share(int tenant, double weight) const;
  // Of tenants by name that have some.
  std::vector<TenantSlots> Named() const;

 private:
  struct Turns {
    int64_t slots = 0;
    double weight = 1;
    // What it has had, in slots for its weight; in step with others who take
    // some.
    double had = 0;
  };

  Turns Of(int tenant) const;

  absl::flat_hash_map<int, Turns> turns_;
  double now_ = 0;  // what the last that took one had had
};

}  // namespace engram

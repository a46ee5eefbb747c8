// SessionName: which session is meant. An id is of its client's choice, and two
// tenants may choose the same one: whoever names a session says whose it is.
#pragma once

#include <string>
#include <utility>

#include "server/tenant.h"

namespace engram {

// Of the one whose handle this is; nullptr: of the one without a name.
inline int NumberOf(const TenantHandle& tenant) {
  return tenant == nullptr ? 0 : tenant->number();
}

// As in its limits.
inline double WeightOf(const TenantHandle& tenant) {
  return tenant == nullptr ? 1 : tenant->weight();
}

struct SessionName {
  // There is none without a tenant, so that none is forgotten.
  SessionName(TenantHandle tenant, std::string id)
      : tenant(std::move(tenant)), id(std::move(id)) {}

  TenantHandle tenant;  // nullptr: the one without a name
  std::string id;       // empty: no session
};

}  // namespace engram

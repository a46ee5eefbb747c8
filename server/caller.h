// Caller: who makes a call, as far as the server knows.
#pragma once

#include <string>

#include "server/tenant.h"

namespace engram {

struct Caller {
  std::string key;      // the name of the key that was shown; empty: none
  TenantHandle tenant;  // for whom it acts; never null
};

}  // namespace engram

// Named: a session of the tenant without a name, for tests in which no other
// tenant appears.
#pragma once

#include <string>
#include <utility>

#include "server/session_name.h"

namespace engram {

inline SessionName Named(std::string id) {
  return SessionName(nullptr, std::move(id));
}

}  // namespace engram

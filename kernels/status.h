// Macros for absl::Status and for broken invariants.
//
// Anything that the world can cause is an absl::Status, handed on by the macros
// of tools/status/early_return.h; a broken invariant of our own is an
// ENGRAM_CHECK, which stays in release builds. Debian 12's abseil has no
// absl/log, hence this file.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "absl/status/status.h"
#include "tools/status/early_return.h"

#define ENGRAM_CHECK(condition)                                       \
  do {                                                                \
    if (!(condition)) {                                               \
      std::fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, \
                   __LINE__, #condition);                             \
      std::abort();                                                   \
    }                                                                 \
  } while (false)
#define ENGRAM_CHECK_OK(expression)                           \
  do {                                                        \
    const absl::Status engram_status_ = (expression);         \
    if (!engram_status_.ok()) {                               \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, \
                   engram_status_.ToString().c_str());        \
      std::abort();                                           \
    }                                                         \
  } while (false)

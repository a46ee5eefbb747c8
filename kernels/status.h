// Macros for absl::Status and for broken invariants.
//
// Anything that the world can cause is an absl::Status; a broken invariant of
// our own is an ENGRAM_CHECK, which stays in release builds. Debian 12's abseil
// has neither absl/log nor status macros, hence this file; the prefix keeps it
// compatible with newer releases that do.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define ENGRAM_RETURN_IF_ERROR(expression)           \
  do {                                               \
    absl::Status engram_status_ = (expression);      \
    if (!engram_status_.ok()) return engram_status_; \
  } while (false)

#define ENGRAM_STATUS_CONCAT_INNER_(a, b) a##b
#define ENGRAM_STATUS_CONCAT_(a, b) ENGRAM_STATUS_CONCAT_INNER_(a, b)
#define ENGRAM_ASSIGN_OR_RETURN_IMPL_(result, target, expression) \
  auto result = (expression);                                     \
  if (!result.ok()) return std::move(result).status();            \
  target = std::move(result).value()
#define ENGRAM_ASSIGN_OR_RETURN(target, expression) \
  ENGRAM_ASSIGN_OR_RETURN_IMPL_(                    \
      ENGRAM_STATUS_CONCAT_(engram_statusor_, __LINE__), target, expression)

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

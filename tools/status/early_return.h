// Early returns for functions that return absl::Status or absl::StatusOr.
// Debian 12's abseil has no such macros; the prefix keeps these compatible with
// newer releases that do.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns the status that `expression` gives, unless it is OK.
#define ENGRAM_RETURN_IF_ERROR(expression)           \
  do {                                               \
    absl::Status engram_status_ = (expression);      \
    if (!engram_status_.ok()) return engram_status_; \
  } while (false)

// Assigns to `target`, which may be a declaration, the value of `expression`,
// an absl::StatusOr; returns its status if there is none.
#define ENGRAM_ASSIGN_OR_RETURN(target, expression) \
  ENGRAM_ASSIGN_OR_RETURN_IMPL_(                    \
      ENGRAM_STATUS_CONCAT_(engram_statusor_, __LINE__), target, expression)
#define ENGRAM_ASSIGN_OR_RETURN_IMPL_(result, target, expression) \
  auto result = (expression);                                     \
  if (!result.ok()) return std::move(result).status();            \
  target = std::move(result).value()
#define ENGRAM_STATUS_CONCAT_(a, b) ENGRAM_STATUS_CONCAT_INNER_(a, b)
#define ENGRAM_STATUS_CONCAT_INNER_(a, b) a##b

// MethodNeeds: what a caller must have for each method that there is, in one
// table. A method that is not in it is nobody's.
//
// Thread-safe: constant.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"

namespace engram {

enum class Need {
  kNothing,   // no key
  kKey,       // a key, whatever its roles
  kGenerate,  // Role::kGenerate, and so on
  kSessions,
  kInspect,
  kMetrics,
  kReflection,  // what --reflection says: nothing, or a key
  kOperator,    // Role::kAdmin of a key of operators
};

struct MethodNeed {
  // As in RequestSummary::method ("Generate", "Sessions.Create"); of services
  // that are not ours the path ("/grpc.health.v1.Health/Check"), and that of a
  // page of the metrics port ("/metrics").
  const char* method;
  Need need;
};

// How log and metrics call what is not in the table.
inline constexpr char kUnknownMethod[] = "unknown";

const std::vector<MethodNeed>& MethodNeeds();
// nullptr if the method is not there.
const MethodNeed* FindMethodNeed(absl::string_view method);

}  // namespace engram

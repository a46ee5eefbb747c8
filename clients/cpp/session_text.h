// What the verbs about sessions and about checkpoints read and print alike.
#pragma once

#include <google/protobuf/map.h>
#include <google/protobuf/timestamp.pb.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace engram::client {

absl::Time ToTime(const google::protobuf::Timestamp& time);
// "2026-01-31T23:59:59Z", or "never" of the infinite future.
std::string FullTime(absl::Time time);

// Of the texts of --label. INVALID_ARGUMENT: one of them is not KEY=VALUE.
absl::Status ReadLabels(
    const std::vector<std::string>& texts,
    google::protobuf::Map<std::string, std::string>* labels);

}  // namespace engram::client

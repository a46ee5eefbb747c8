// Ids of sessions and requests: their form, and those that the server makes up.
//
// Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/session_name.h"

namespace engram {

// Whether `id` is [A-Za-z0-9._:-]{1,128}; INVALID_ARGUMENT naming `field`.
absl::Status CheckId(absl::string_view field, absl::string_view id);

// 32 random hexadecimal digits.
std::string RandomId();

// A request_id for a turn on `session`, which has `version` turns: a random id
// that tells the version and that it was made for this session, so that a
// server which has forgotten old ids can tell whether this may be one of them.
std::string NewRequestId(const SessionName& session, int64_t version);

// The version in an id that NewRequestId made for `session`; nothing of any
// other id.
std::optional<int64_t> VersionOfRequestId(const SessionName& session,
                                          absl::string_view request_id);

}  // namespace engram

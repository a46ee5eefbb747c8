#include "clients/cpp/call_end.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "tools/status/retry_after.h"

namespace engram::client {
namespace {

// Who prints a whole status sees these.
constexpr char kEndPayload[] = "engram.call-end";
constexpr absl::string_view kNames[] = {"unknown", "not reached", "broken",
                                        "answered by the server"};

// gRPC tells only in words who made an error.
CallEnd FindEnd(const grpc::Status& status, const std::string& details) {
  if (absl::StrContains(details, "Error received from peer")) {
    return CallEnd::kAnswered;
  }
  if (status.error_code() != grpc::StatusCode::UNAVAILABLE) {
    return CallEnd::kUnknown;
  }
  for (const char* words :
       {"failed to connect", "dns resolution failed", "no such host",
        "empty address list", "connections to all backends failing"}) {
    if (absl::StrContains(absl::AsciiStrToLower(status.error_message()),
                          words)) {
      return CallEnd::kNotReached;
    }
  }
  return CallEnd::kBroken;
}

}  // namespace

absl::Status ToStatus(const grpc::Status& status,
                      const grpc::ClientContext& context) {
  // The codes of gRPC and abseil are the same numbers.
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()),
                      status.error_message());
  if (result.ok()) return result;
  const auto& metadata = context.GetServerTrailingMetadata();
  if (const auto told = metadata.find(kRetryAfterMetadata);
      told != metadata.end()) {
    const std::optional<absl::Duration> wait =
        ParseRetryAfter({told->second.data(), told->second.size()});
    if (wait.has_value()) result = WithRetryAfter(std::move(result), *wait);
  }
  return WithEnd(FindEnd(status, context.debug_error_string()),
                 std::move(result));
}

absl::Status WithEnd(CallEnd end, absl::Status status) {
  status.SetPayload(kEndPayload, absl::Cord(kNames[static_cast<int>(end)]));
  return status;
}

absl::Status WithEndOf(const absl::Status& like, absl::Status status) {
  const auto end = like.GetPayload(kEndPayload);
  if (end.has_value()) status.SetPayload(kEndPayload, *end);
  return status;
}

CallEnd EndOf(const absl::Status& status) {
  const auto end = status.GetPayload(kEndPayload);
  if (!end.has_value()) return CallEnd::kUnknown;
  const auto* name = std::find(std::begin(kNames), std::end(kNames), *end);
  return static_cast<CallEnd>(
      name == std::end(kNames) ? 0 : name - std::begin(kNames));
}

}  // namespace engram::client

#include "clients/cpp/session_text.h"

#include "absl/strings/str_cat.h"

namespace engram::client {

absl::Time ToTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) +
         absl::Nanoseconds(time.nanos());
}

std::string FullTime(absl::Time time) {
  if (time == absl::InfiniteFuture()) return "never";
  return absl::FormatTime("%Y-%m-%d%ET%H:%M:%SZ", time, absl::UTCTimeZone());
}

absl::Status ReadLabels(
    const std::vector<std::string>& texts,
    google::protobuf::Map<std::string, std::string>* labels) {
  for (const std::string& text : texts) {
    const size_t end = text.find('=');
    if (end == std::string::npos || end == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag --label: '", text, "' is not KEY=VALUE"));
    }
    (*labels)[text.substr(0, end)] = text.substr(end + 1);
  }
  return absl::OkStatus();
}

}  // namespace engram::client

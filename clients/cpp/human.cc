#include "clients/cpp/human.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace engram::client {
namespace {

// "" below a second. Rounded down: what is 119 minutes ago is 1h ago.
std::string Rough(absl::Duration duration) {
  const int64_t seconds = absl::ToInt64Seconds(duration);
  constexpr int64_t kMinute = 60, kHour = 60 * kMinute, kDay = 24 * kHour,
                    kYear = 365 * kDay;
  if (seconds <= 0) return "";
  if (seconds < kMinute) return absl::StrCat(seconds, "s");
  if (seconds < kHour) return absl::StrCat(seconds / kMinute, "m");
  if (seconds < 2 * kDay) return absl::StrCat(seconds / kHour, "h");
  if (seconds < 2 * kYear) return absl::StrCat(seconds / kDay, "d");
  return absl::StrCat(seconds / kYear, "y");
}

}  // namespace

std::string Ago(absl::Time time, absl::Time now) {
  const std::string rough = Rough(now - time);
  return rough.empty() ? "now" : absl::StrCat(rough, " ago");
}

std::string Until(absl::Time time, absl::Time now) {
  if (time == absl::InfiniteFuture()) return "never";
  // To the nearest second: 24 hours from a moment ago is in 24h.
  const std::string rough = Rough(time - now + absl::Milliseconds(500));
  return rough.empty() ? "now" : absl::StrCat("in ", rough);
}

std::string Bytes(int64_t bytes) {
  if (bytes < 1000) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  for (const char* unit : {"KiB", "MiB", "GiB", "TiB", "PiB"}) {
    value /= 1024;
    if (value < 9.95) return absl::StrFormat("%.1f %s", value, unit);
    if (value < 999.5) return absl::StrFormat("%.0f %s", value, unit);
  }
  return absl::StrFormat("%.0f EiB", value / 1024);
}

std::string Rate(double rate, absl::string_view unit) {
  const char* prefix = "";
  for (const char* larger : {"k", "M", "G", "T"}) {
    if (rate < 1000) break;
    rate /= 1000;
    prefix = larger;
  }
  return absl::StrFormat("%.3g %s%s", rate, prefix, unit);
}

std::string Shortened(absl::string_view text, size_t width) {
  if (text.size() <= width) return std::string(text);
  const size_t end = (width - 3) / 2;
  return absl::StrCat(text.substr(0, width - 3 - end), "...",
                      text.substr(text.size() - end));
}

}  // namespace engram::client

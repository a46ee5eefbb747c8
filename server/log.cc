#include "server/log.h"

#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/unicode.h"
#include "server/clock.h"

namespace engram {
namespace {

void AppendQuoted(std::string_view text, std::string* line) {
  line->push_back('"');
  while (!text.empty()) {
    const Utf8Start start = StartOfUtf8(text);
    const char c = text.front();
    if (start.kind != Utf8Start::kCharacter) {
      *line += "\xef\xbf\xbd";  // U+FFFD
    } else if (c == '"' || c == '\\') {
      line->push_back('\\');
      line->push_back(c);
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(line, "\\u%04x", static_cast<unsigned char>(c));
    } else {
      *line += text.substr(0, start.length);
    }
    text.remove_prefix(start.length);
  }
  line->push_back('"');
}

void AppendValue(const LogValue& value, std::string* line) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    AppendQuoted(*text, line);
  } else if (const auto* integer = std::get_if<int64_t>(&value)) {
    absl::StrAppend(line, *integer);
  } else if (const double number = std::get<double>(value);
             std::isfinite(number)) {
    absl::StrAppendFormat(line, "%.6f", number);
  } else {
    *line += "null";  // JSON has no other word for it
  }
}

}  // namespace

std::string LogLine(absl::Time time, std::string_view event,
                    const LogFields& fields) {
  std::string line = "{\"time\":";
  AppendQuoted(absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", time,
                                absl::UTCTimeZone()),
               &line);
  line += ",\"event\":";
  AppendQuoted(event, &line);
  for (const auto& [name, value] : fields) {
    line.push_back(',');
    AppendQuoted(name, &line);
    line.push_back(':');
    AppendValue(value, &line);
  }
  line += "}";
  return line;
}

void Log(std::string_view event, const LogFields& fields) {
  const std::string line = LogLine(RealClock()->Now(), event, fields) + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

namespace {

std::string HandlingName(RequestHandling handling) {
  switch (handling) {
    case RequestHandling::kRun:
      return "run";
    case RequestHandling::kRefused:
      return "refused";
    case RequestHandling::kReplayed:
      return "replayed";
    case RequestHandling::kAnswered:
      return "answered";
  }
  return "";
}

}  // namespace

LogFields DescribeRequest(const RequestSummary& request) {
  LogFields fields = {
      {"model", request.model},
      {"kind", request.kind},
      {"method", request.method},
      {"session_id", request.session_id},
      {"request_id", request.request_id},
      {"handling", HandlingName(request.handling)},
      {"code", absl::StatusCodeToString(request.status.code())},
      {"finish_reason", request.finish_reason},
      {"prompt_tokens", request.usage.prompt_tokens},
      {"cached_tokens", request.usage.cached_tokens},
      {"generated_tokens", request.usage.generated_tokens},
      {"queue_s", absl::ToDoubleSeconds(request.timing.queue)},
      {"prefill_s", absl::ToDoubleSeconds(request.timing.prefill)},
      {"decode_s", absl::ToDoubleSeconds(request.timing.decode)},
      {"total_s", absl::ToDoubleSeconds(request.total)}};
  if (!request.status.ok()) {
    fields.emplace_back("message", std::string(request.status.message()));
  }
  return fields;
}

}  // namespace engram

#include "server/log.h"

#include <stdio.h>
#include <unistd.h>

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/unicode.h"
#include "server/clock.h"
#include "server/log_writer.h"

namespace engram {
namespace {

constexpr size_t kDefaultMemory = 8 << 20;
// How long a line that the process may end after is waited for.
constexpr absl::Duration kLastLineWait = absl::Seconds(1);

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

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "";
}

// Never destroyed: threads that are not ours may have something to say to the
// very end.
LogWriter& Writer() {
  static LogWriter* const writer =
      new LogWriter(STDERR_FILENO, kDefaultMemory, [](int64_t lines) {
        return LogLine(RealClock()->Now(), LogLevel::kWarning,
                       "log_lines_dropped", {{"lines", lines}});
      });
  return *writer;
}

// Of a stream in place of stderr.
ssize_t LogPrinted(void*, const char* text, size_t bytes) {
  std::string message(text, bytes);
  while (!message.empty() && message.back() == '\n') message.pop_back();
  if (!message.empty()) {
    Log(LogLevel::kError, "stderr", {{"message", std::move(message)}});
    FlushLog(kLastLineWait);
  }
  return static_cast<ssize_t>(bytes);
}

}  // namespace

std::string LogLine(absl::Time time, LogLevel level, std::string_view event,
                    const LogFields& fields) {
  std::string line = "{\"time\":";
  AppendQuoted(
      absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", time, absl::UTCTimeZone()),
      &line);
  absl::StrAppend(&line, ",\"level\":\"", LevelName(level), "\",\"event\":");
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

void Log(LogLevel level, std::string_view event, const LogFields& fields) {
  Writer().Write(LogLine(RealClock()->Now(), level, event, fields));
}

void Log(std::string_view event, const LogFields& fields) {
  Log(LogLevel::kInfo, event, fields);
}

void SetLogMemory(size_t bytes) { Writer().SetMaxBytes(bytes); }

int64_t LogLinesDropped() { return Writer().dropped(); }

bool FlushLog(absl::Duration limit) { return Writer().Flush(limit); }

void LogStandardError() {
  cookie_io_functions_t functions = {};
  functions.write = LogPrinted;
  FILE* const stream = fopencookie(nullptr, "w", functions);
  if (stream == nullptr) return;
  setvbuf(stream, nullptr, _IOLBF, BUFSIZ);
  stderr = stream;
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
      {"peer", request.peer},
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
  if (!request.key.empty()) {
    fields.emplace_back("key", request.key);
    fields.emplace_back(
        "tenant", request.tenant == nullptr ? "" : request.tenant->name());
  }
  if (!request.status.ok()) {
    fields.emplace_back("message", std::string(request.status.message()));
  }
  return fields;
}

LogLevel RequestLevel(const RequestSummary& request) {
  switch (request.status.code()) {
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return LogLevel::kError;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      return LogLevel::kWarning;
    default:
      return LogLevel::kInfo;  // the client's own affair
  }
}

}  // namespace engram

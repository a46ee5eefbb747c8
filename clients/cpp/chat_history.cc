#include "clients/cpp/chat_history.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "clients/cpp/input_file.h"
#include "clients/cpp/utf8.h"
#include "tools/shell/write_all.h"
#include "tools/status/early_return.h"

namespace engram::client {
namespace {

// Only the owner may read what was said.
constexpr mode_t kFileMode = 0600;
constexpr mode_t kFolderMode = 0700;

absl::Status Failed(const std::string& file, int error) {
  return absl::ErrnoToStatus(error, absl::StrCat("chat history ", file));
}

void MakeFolders(const std::string& file) {
  for (size_t slash = file.find('/', 1); slash != file.npos;
       slash = file.find('/', slash + 1)) {
    mkdir(file.substr(0, slash).c_str(), kFolderMode);
  }
}

absl::Status WriteTo(const std::string& file, int flags,
                     const std::string& text) {
  const int descriptor =
      open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, kFileMode);
  if (descriptor < 0) return Failed(file, errno);
  const int error = WriteAll(descriptor, text);
  close(descriptor);
  return error == 0 ? absl::OkStatus() : Failed(file, error);
}

}  // namespace

std::string DefaultChatHistoryFile() {
  constexpr absl::string_view kName = "/engram/chat_history";
  const char* state = std::getenv("XDG_STATE_HOME");
  // The specification has relative paths ignored.
  if (state != nullptr && absl::StartsWith(state, "/")) {
    return absl::StrCat(state, kName);
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return "";
  return absl::StrCat(home, "/.local/state", kName);
}

ChatHistory::ChatHistory(std::string file) : file_(std::move(file)) {}

absl::StatusOr<std::vector<std::string>> ChatHistory::Load() const {
  std::vector<std::string> lines;
  if (file_.empty() || access(file_.c_str(), F_OK) != 0) return lines;
  ENGRAM_ASSIGN_OR_RETURN(const std::string content, ReadFile(file_));
  lines = absl::StrSplit(content, '\n', absl::SkipEmpty());
  const size_t all = lines.size();
  if (all > kLinesMax) lines.erase(lines.begin(), lines.end() - kLinesMax);
  std::erase_if(lines,
                [](const std::string& line) { return !CheckUtf8(line).ok(); });
  if (all > 2 * kLinesMax) ENGRAM_RETURN_IF_ERROR(Replace(lines));
  return lines;
}

absl::Status ChatHistory::Append(const std::string& line) const {
  if (file_.empty()) return absl::OkStatus();
  MakeFolders(file_);
  return WriteTo(file_, O_APPEND, absl::StrCat(line, "\n"));
}

absl::Status ChatHistory::Replace(const std::vector<std::string>& lines) const {
  const std::string temporary = absl::StrCat(file_, ".", getpid());
  absl::Status status = WriteTo(temporary, O_TRUNC,
                                absl::StrCat(absl::StrJoin(lines, "\n"), "\n"));
  if (status.ok() && std::rename(temporary.c_str(), file_.c_str()) != 0) {
    status = Failed(file_, errno);
  }
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

}  // namespace engram::client

// The lines that were typed into `engram chat`, kept in a file for the next
// time: one line each, the oldest first, only for its owner's eyes.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace engram::client {

// $XDG_STATE_HOME/engram/chat_history, else that under ~/.local/state; "" if
// there is no home either.
std::string DefaultChatHistoryFile();

// Thread-compatible. Two programs may share the file.
class ChatHistory {
 public:
  static constexpr size_t kLinesMax = 1000;

  // "": nothing is kept.
  explicit ChatHistory(std::string file);

  // The newest kLinesMax lines; those that are not UTF-8 are left out. Takes
  // older ones out of the file when they have become many. A file that is not
  // there yet has none. Errors name the file.
  absl::StatusOr<std::vector<std::string>> Load() const;

  // Adds a line at the end, and makes the file and its folders if need be.
  // Errors name the file.
  absl::Status Append(const std::string& line) const;

 private:
  absl::Status Replace(const std::vector<std::string>& lines) const;

  const std::string file_;
};

}  // namespace engram::client

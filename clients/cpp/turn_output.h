// Shows a turn on the terminal as it comes.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engram/v1/generation.pb.h"

namespace engram::client {

// Text on standard output, each message at once, or JSON lines.
// Thread-compatible.
class TurnOutput {
 public:
  explicit TurnOutput(bool json);

  // Errors, which are kept: INTERNAL if it has no JSON, or what became of
  // standard output.
  absl::Status Show(const v1::GenerateResponse& response);

  // Ends the line if standard output is a terminal and the text did not.
  void EndLine();

  // Once Completed has come: tokens, speed, version, on standard error.
  void ShowStatistics() const;

  // What went wrong with showing.
  const absl::Status& status() const { return status_; }
  const v1::Started& started() const { return started_; }
  const v1::Completed& completed() const { return completed_; }

 private:
  void ShowText(const std::string& text);

  const bool json_;
  bool at_line_start_ = true;
  absl::Status status_;
  absl::Time begin_;
  absl::Time first_token_;
  v1::Started started_;
  v1::Completed completed_;
};

}  // namespace engram::client

#include "clients/cpp/turn_output.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_format.h"
#include "clients/cpp/verb.h"

namespace engram::client {
namespace {

double Milliseconds(const google::protobuf::Duration& duration) {
  return 1e3 * static_cast<double>(duration.seconds()) +
         1e-6 * duration.nanos();
}

}  // namespace

TurnOutput::TurnOutput(bool json)
    : json_(json), begin_(absl::Now()), first_token_(absl::InfinitePast()) {}

absl::Status TurnOutput::Show(const v1::GenerateResponse& response) {
  if (response.has_started()) started_ = response.started();
  if (response.has_completed()) completed_ = response.completed();
  if (response.has_token() && first_token_ == absl::InfinitePast()) {
    first_token_ = absl::Now();
  }
  if (json_) {
    status_.Update(PrintJson(response));
  } else {
    if (response.has_token()) ShowText(response.token().text());
    if (response.has_completed()) ShowText(response.completed().text());
  }
  status_.Update(PrintStatus());
  return status_;
}

void TurnOutput::ShowText(const std::string& text) {
  if (text.empty()) return;
  at_line_start_ = text.back() == '\n';
  Print(text);
}

void TurnOutput::EndLine() {
  if (!json_ && !at_line_start_ && isatty(STDOUT_FILENO)) ShowText("\n");
}

void TurnOutput::ShowStatistics() const {
  const v1::Usage& usage = completed_.usage();
  absl::FPrintF(stderr, "%s after %d tokens; prompt %d tokens, %d cached",
                v1::FinishReason_Name(completed_.finish_reason()),
                usage.generated_tokens(), usage.prompt_tokens(),
                usage.cached_tokens());
  if (!started_.session_id().empty()) {
    absl::FPrintF(stderr, "; session %s version %d position %d",
                  started_.session_id(), completed_.version(),
                  completed_.position());
  }
  absl::FPrintF(stderr, "; seed %d, request %s\n", started_.seed(),
                started_.request_id());
  if (first_token_ != absl::InfinitePast()) {
    absl::FPrintF(stderr, "first token after %.1f ms, all after %.1f ms; ",
                  absl::ToDoubleMilliseconds(first_token_ - begin_),
                  absl::ToDoubleMilliseconds(absl::Now() - begin_));
  }
  const v1::Timing& timing = completed_.timing();
  absl::FPrintF(stderr,
                "in the server: waiting %.1f ms, prompt %.1f ms, answer %.1f "
                "ms\n",
                Milliseconds(timing.queue()), Milliseconds(timing.prefill()),
                Milliseconds(timing.decode()));
}

}  // namespace engram::client

#include "clients/cpp/resumable_turn.h"

#include <cstdint>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace engram::client {
namespace {

// The same but for the message: what else a status tells stays with it.
absl::Status WithMessage(const absl::Status& status,
                         absl::string_view message) {
  absl::Status result(status.code(), message);
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& payload) {
    result.SetPayload(type, payload);
  });
  return result;
}

}  // namespace

bool IsTransportFailure(const absl::Status& status) {
  if (status.code() == absl::StatusCode::kUnavailable) return true;
  // gRPC reports a stream that a proxy or a dying server cut off under several
  // codes, which a server may also mean; only the words tell them apart.
  return absl::StrContains(status.message(), "RST_STREAM") ||
         absl::StrContains(status.message(), "Stream removed");
}

std::string FreshId() {
  absl::BitGen random;
  return absl::StrFormat("%016x%016x", absl::Uniform<uint64_t>(random),
                         absl::Uniform<uint64_t>(random));
}

ResumableTurn::ResumableTurn(v1::GenerateRequest request, int retries)
    : request_(std::move(request)), retries_(retries) {
  if (!request_.session_id().empty() && request_.request_id().empty()) {
    request_.set_request_id(FreshId());
  }
}

const v1::GenerateRequest& ResumableTurn::StartStream() {
  made_progress_ = false;
  return request_;
}

void ResumableTurn::ReceiveStarted(const v1::Started& started) {
  if (!request_.session_id().empty()) return;
  // Without a session nothing but the seed makes the repeat give the same
  // tokens. A turn on a session must not add it: the server derives the same
  // seed again, and would take the request for another one.
  request_.mutable_sampling()->set_seed(started.seed());
  if (request_.request_id().empty()) {
    request_.set_request_id(started.request_id());
  }
}

absl::Status ResumableTurn::Receive(const v1::GenerateResponse& response,
                                    bool* fresh) {
  *fresh = false;
  switch (response.event_case()) {
    case v1::GenerateResponse::kStarted:
      if (!started_) {
        ReceiveStarted(response.started());
        started_ = *fresh = true;
      }
      break;
    case v1::GenerateResponse::kToken: {
      const int have = request_.received_token_ids_size();
      const int index = response.token().index();
      if (index > have) {
        return absl::InternalError(absl::StrCat("the server sent token ", index,
                                                " where token ", have,
                                                " comes next"));
      }
      // A smaller index was seen on an earlier stream.
      if (index == have) {
        request_.add_received_token_ids(response.token().id());
        made_progress_ = *fresh = true;
      }
      break;
    }
    case v1::GenerateResponse::kCompleted:
      *fresh = !completed_;
      completed_ = true;
      break;
    case v1::GenerateResponse::EVENT_NOT_SET:
      break;  // An event that a newer server knows.
  }
  return absl::OkStatus();
}

bool ResumableTurn::MayRepeat(const absl::Status& status) const {
  if (IsTransportFailure(status)) return true;
  // The server still runs the call whose stream broke, and will notice soon.
  // On the first call it means that someone else's turn is running.
  if (status.code() == absl::StatusCode::kAborted) return stream_broke_before_;
  // The server ends a stream that is read too slowly, and lets it go on.
  return status.code() == absl::StatusCode::kResourceExhausted &&
         made_progress_;
}

ResumableTurn::Next ResumableTurn::StreamEnded(const absl::Status& status) {
  // Completed is sent after the commit: what happens to the stream afterwards
  // does not matter any more.
  if (completed_) return Next::kDone;
  result_ = status.ok() ? absl::InternalError(
                              "the server ended the stream before the turn was "
                              "complete")
                        : status;
  if (!MayRepeat(result_)) return Next::kFail;

  if (made_progress_) fruitless_repeats_ = 0;
  if (fruitless_repeats_ == retries_) {
    if (retries_ > 0) {
      result_ = WithMessage(
          result_, absl::StrCat(result_.message(), " (gave up after ", retries_,
                                " repeats)"));
    }
    return Next::kFail;
  }
  ++fruitless_repeats_;
  stream_broke_before_ = true;
  return Next::kRepeat;
}

}  // namespace engram::client

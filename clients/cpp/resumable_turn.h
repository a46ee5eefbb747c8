// A turn that survives broken streams: what to send next, and what of the
// answers the caller has not seen yet.
//
// The server answers a repeated request with the same tokens, and takes those
// that the client already has as received_token_ids. This class keeps count, so
// that the caller sees one Started, every token exactly once and one Completed,
// however often the stream broke. It knows nothing of gRPC, threads or time.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "engram/v1/generation.pb.h"

namespace engram::client {

// Whether a call that ended so may be repeated: the server was not reached, is
// going down, or the connection broke.
bool IsTransportFailure(const absl::Status& status);

// 128 random bits in hexadecimal: an id that nobody else has made up.
std::string FreshId();

// Thread-compatible.
class ResumableTurn {
 public:
  // `retries` is the number of repeats in a row that may bring nothing new. A
  // turn on a session gets a request_id, if it has none: without it, the server
  // could not tell a repeat from another turn.
  ResumableTurn(v1::GenerateRequest request, int retries);

  // Begins the first or the next stream. Returns what to send: at first the
  // request as given, then with what came.
  const v1::GenerateRequest& StartStream();

  // Takes the next message of the running stream. `*fresh` tells whether the
  // caller is to see it. Errors: INTERNAL if the server left out a token.
  absl::Status Receive(const v1::GenerateResponse& response, bool* fresh);

  // What to do after a stream ended.
  enum class Next {
    kDone,    // The turn is complete.
    kRepeat,  // Wait, then start another stream.
    kFail,    // result() tells why.
  };
  Next StreamEnded(const absl::Status& status);

  // How the turn ended: after kDone or kFail.
  const absl::Status& result() const { return result_; }

  // Whether the last stream brought something new; waits may be short again.
  bool made_progress() const { return made_progress_; }

 private:
  void ReceiveStarted(const v1::Started& started);
  bool MayRepeat(const absl::Status& status) const;

  v1::GenerateRequest request_;
  const int retries_;
  int fruitless_repeats_ = 0;
  bool started_ = false;
  bool completed_ = false;
  bool stream_broke_before_ = false;
  bool made_progress_ = false;
  absl::Status result_;
};

}  // namespace engram::client

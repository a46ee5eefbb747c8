#include "clients/cpp/advice.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "clients/cpp/client.h"

namespace engram::client {
namespace {

// `words` in lower case.
bool Says(const absl::Status& status, absl::string_view words) {
  return absl::StrContains(absl::AsciiStrToLower(status.message()), words);
}

std::string NotReached(const absl::Status& status, absl::string_view server) {
  if (Says(status, "http1") || Says(status, "http/2")) {
    return absl::StrCat("what listens at ", server,
                        " does not speak gRPC; is it the port of the metrics? "
                        "Name the gRPC port with --server HOST:PORT");
  }
  return absl::StrCat("is a server running at ", server,
                      "? Start one with scripts/serve, or name another with "
                      "--server HOST:PORT");
}

std::string Unavailable(const absl::Status& status, absl::string_view server) {
  switch (EndOf(status)) {
    case CallEnd::kNotReached:
      return NotReached(status, server);
    case CallEnd::kBroken:
      return absl::StrCat("the connection to ", server,
                          " broke: the server may have ended or be restarting; "
                          "try again");
    case CallEnd::kAnswered:
    case CallEnd::kUnknown:
      break;
  }
  return "the server is there, but takes no more for now: try again later";
}

// A server of ours says what it lacks; gRPC says nothing, or only that it does
// not know the method.
std::string Unimplemented(const absl::Status& status,
                          absl::string_view server) {
  const bool knows_the_call = EndOf(status) == CallEnd::kAnswered &&
                              !status.message().empty() &&
                              !Says(status, "method") && !Says(status, "404");
  if (knows_the_call) return "";
  return absl::StrCat("what listens at ", server,
                      " does not know this call: an older Engram server, or "
                      "another program's port");
}

std::string ResourceExhausted(const absl::Status& status) {
  if (Says(status, "message larger than max")) {
    return "send less at once, or start the server with a larger "
           "--max-message-bytes";
  }
  return "ask for less, or try again later";
}

std::string FailedPrecondition(const absl::Status& status) {
  if (Says(status, "version")) {
    return "if the session went on elsewhere, `engram sessions get ID` tells "
           "its version";
  }
  return "";
}

// What is wrong inside of the server is in its log; what is wrong between us
// is not.
std::string Internal(const absl::Status& status, absl::string_view server) {
  if (EndOf(status) == CallEnd::kAnswered) return "the server's log tells more";
  return absl::StrCat(
      "this is no answer of an Engram server of this version; "
      "what listens at ",
      server, "?");
}

// Ours speak of keys.
std::string NotOurs(absl::string_view server) {
  return absl::StrCat(
      "these are not the words of an Engram server: is what "
      "listens at ",
      server, " a proxy or another program?");
}

std::string Unauthenticated(const absl::Status& status,
                            absl::string_view server) {
  if (!Says(status, "key")) return NotOurs(server);
  if (Says(status, "no key")) {
    return "name the file of your key with --api-key-file FILE or "
           "$ENGRAM_API_KEY_FILE; who runs the server makes one by "
           "`engram-server --make-key`";
  }
  if (Says(status, "expired")) {
    return "ask who runs the server for a new one, and put it in the file of "
           "--api-key-file";
  }
  return absl::StrCat(
      "is the file of --api-key-file or $ENGRAM_API_KEY_FILE "
      "meant for ",
      server,
      "? If so, the key was replaced: ask who runs the server "
      "for a new one");
}

std::string PermissionDenied(const absl::Status& status,
                             absl::string_view server) {
  if (Says(status, "engram-tenant")) {
    return "leave out --tenant (and $ENGRAM_TENANT), or use an operator's key";
  }
  if (!Says(status, "key")) return NotOurs(server);
  return "use another key (--api-key-file), or ask who runs the server to give "
         "yours the role";
}

}  // namespace

std::string Advice(const absl::Status& status, absl::string_view program,
                   absl::string_view server) {
  // Whatever became of the call then: this was the reason.
  if (EndOf(status) == CallEnd::kNotReached) return NotReached(status, server);
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return Unavailable(status, server);
    case absl::StatusCode::kNotFound:
      if (Says(status, "engram-tenant")) {
        return "--tenant or $ENGRAM_TENANT names a tenant of the server's keys";
      }
      if (Says(status, "no checkpoint")) {
        return "`engram checkpoints list` shows what there is";
      }
      return "`engram models` and `engram sessions list` show what there is";
    case absl::StatusCode::kFailedPrecondition:
      return FailedPrecondition(status);
    case absl::StatusCode::kAborted:
      return "another turn is running on this session: try again when it is "
             "over, or go on in a copy made by `engram sessions fork ID`";
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return absl::StrCat("`", program, " --help` tells what each flag takes");
    case absl::StatusCode::kAlreadyExists:
      return "choose another id";
    case absl::StatusCode::kDeadlineExceeded:
      return "allow more time with --deadline, or ask for less";
    case absl::StatusCode::kResourceExhausted:
      return ResourceExhausted(status);
    case absl::StatusCode::kUnimplemented:
      return Unimplemented(status, server);
    case absl::StatusCode::kUnauthenticated:
      return Unauthenticated(status, server);
    case absl::StatusCode::kPermissionDenied:
      return PermissionDenied(status, server);
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return Internal(status, server);
    default:
      return "";
  }
}

}  // namespace engram::client

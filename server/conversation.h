// Conversation: the turns of one Converse stream: which message is read when,
// which turn is started, what is written next, and how the stream ends. It
// knows neither gRPC nor protobuf: a call object (server/converse_call.cc)
// tells it what came, and carries out what TakeNext says.
//
// A message goes through three hands, each of which may take its time: it is
// read, decoded, and, if it is a turn, started. The next one is read when the
// one before needs no more room, so that a turn that runs or is being started
// can be cancelled.
//
// Thread-safe.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/request.h"
#include "server/request_threads.h"
#include "server/session_store.h"
#include "server/turn_feed.h"

namespace engram {

class Conversation {
 public:
  // Both pointers must outlive this. `tenant`: whose turns they are. It begins
  // with a write on its way: the initial metadata.
  Conversation(const SessionStore* sessions, RequestThreads* threads,
               TenantHandle tenant)
      : sessions_(sessions), threads_(threads), tenant_(std::move(tenant)) {}

  // --- What comes. After each of these but the first two, and after every
  // event of a feed, TakeNext may have something else to say.

  // A message has come, to be decoded by the work that is returned. Until
  // EndMessage the stream is not finished, so that whoever has the message may
  // read the next one.
  std::shared_ptr<RequestWork> BeginMessage();
  enum class Message { kTurn, kCancel };
  // What the message is, or why it is none. True: the next one is to be read
  // at once. One turn is held at a time: the next message is read when it is
  // being started.
  bool TakeMessage(const absl::StatusOr<Message>& message);
  void EndMessage();
  // There are no more.
  void EndMessages();
  // What was written has gone out.
  void EndWrite();
  // It could not be written; the stream ends with `status`.
  void FailWrite(const absl::Status& status);
  // The client has gone away, for `reason`.
  void Abandon(const absl::Status& reason);
  // The server is stopping: no further turn is to come.
  void Stop();

  // --- What is to be done.

  struct Nothing {};
  // EndWrite or FailWrite follows.
  struct Write {
    Event event;
  };
  // The turn that is held: NameTurn and KeepTurn follow, both by one thread.
  // `work` starts it.
  struct StartTurn {
    std::shared_ptr<RequestWork> work;
  };
  // Said once, and nothing after it.
  struct Finish {
    absl::Status status;
  };
  using Next = std::variant<Nothing, Write, StartTurn, Finish>;
  Next TakeNext();

  // A turn that leaves session and model open is on those of the stream, and
  // the first on a new session. INVALID_ARGUMENT: it names another session.
  absl::Status NameTurn(std::string* session_id, std::string* model);
  // The turn was submitted, or came to nothing. `started` is what it starts
  // with, version and position apart.
  void KeepTurn(absl::StatusOr<std::shared_ptr<TurnFeed>> feed,
                StartedEvent started);

 private:
  // Nothing, if no turn runs or is being started.
  void CancelTurn();
  // The running turn's next event. False: there is none, and feed_ is nullptr
  // if none is to come.
  bool TakeEvent(Event* event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A turn that the client cancelled is answered like any other: with Started
  // and Completed, whether it ever ran or not. `figures` are what it had come
  // to.
  void TellCancelled(const TurnFigures& figures)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const SessionStore* const sessions_;
  RequestThreads* const threads_;
  const TenantHandle tenant_;

  absl::Mutex mutex_;
  std::string session_id_ ABSL_GUARDED_BY(mutex_);          // of all turns
  std::string model_ ABSL_GUARDED_BY(mutex_);               // of the last one
  std::shared_ptr<TurnFeed> feed_ ABSL_GUARDED_BY(mutex_);  // running turn's
  // The turn that is being started, and the message that is being decoded.
  std::shared_ptr<RequestWork> starting_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<RequestWork> decoding_ ABSL_GUARDED_BY(mutex_);
  bool turn_is_held_ ABSL_GUARDED_BY(mutex_) = false;
  // Of a turn that was cancelled, still to be written.
  std::deque<Event> last_events_ ABSL_GUARDED_BY(mutex_);
  absl::Status error_ ABSL_GUARDED_BY(mutex_);  // what the stream ends with
  absl::Status gone_ ABSL_GUARDED_BY(mutex_);   // why the client is, if it is
  StartedEvent turn_start_ ABSL_GUARDED_BY(mutex_);
  bool turn_cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_start_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_end_ ABSL_GUARDED_BY(mutex_) = false;
  int in_hand_ ABSL_GUARDED_BY(mutex_) = 0;  // messages between two hands
  bool reads_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = true;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace engram

#include "server/conversation.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/quoted.h"
#include "server/request_id.h"

namespace engram {
namespace {

absl::Status CancelledByClient() {
  return absl::CancelledError("the client cancelled the turn");
}

}  // namespace

// --- What comes.

std::shared_ptr<RequestWork> Conversation::BeginMessage() {
  auto work = std::make_shared<RequestWork>(threads_);
  absl::MutexLock lock(&mutex_);
  ++in_hand_;
  decoding_ = work;
  if (!gone_.ok()) work->Cancel(gone_);
  return work;
}

bool Conversation::TakeMessage(const absl::StatusOr<Message>& message) {
  {
    absl::MutexLock lock(&mutex_);
    decoding_ = nullptr;
    error_.Update(message.status());
    if (!message.ok()) return false;
    if (*message == Message::kTurn) {
      turn_is_held_ = gone_.ok();
      return false;
    }
  }
  CancelTurn();
  return true;
}

void Conversation::CancelTurn() {
  std::shared_ptr<TurnFeed> feed;
  std::shared_ptr<RequestWork> starting;
  {
    absl::MutexLock lock(&mutex_);
    feed = feed_;
    starting = starting_;
    if (feed != nullptr || starting != nullptr) turn_cancelled_ = true;
  }
  if (feed != nullptr) feed->Cancel(CancelledByClient());
  if (starting != nullptr) starting->Cancel(CancelledByClient());
}

void Conversation::EndMessage() {
  absl::MutexLock lock(&mutex_);
  --in_hand_;
}

void Conversation::EndMessages() {
  absl::MutexLock lock(&mutex_);
  reads_done_ = true;
}

void Conversation::EndWrite() {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
}

void Conversation::FailWrite(const absl::Status& status) {
  std::shared_ptr<TurnFeed> feed;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    error_.Update(status);
    feed = feed_;
  }
  if (feed != nullptr) feed->Abandon(status);
}

void Conversation::Abandon(const absl::Status& reason) {
  std::shared_ptr<TurnFeed> feed;
  std::shared_ptr<RequestWork> decoding, starting;
  {
    absl::MutexLock lock(&mutex_);
    gone_.Update(reason);
    reads_done_ = true;
    turn_is_held_ = false;
    feed = feed_;
    decoding = decoding_;
    starting = starting_;
  }
  if (feed != nullptr) feed->Abandon(reason);
  if (decoding != nullptr) decoding->Cancel(reason);
  if (starting != nullptr) starting->Cancel(reason);
}

void Conversation::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
}

// --- What is to be done.

Conversation::Next Conversation::TakeNext() {
  absl::MutexLock lock(&mutex_);
  if (writing_ || starting_ != nullptr || finished_) return Nothing();
  Event event;
  if (feed_ != nullptr && TakeEvent(&event)) {
    writing_ = true;
    return Write{std::move(event)};
  }
  if (feed_ != nullptr) return Nothing();
  if (!last_events_.empty() && gone_.ok()) {
    event = std::move(last_events_.front());
    last_events_.pop_front();
    writing_ = true;
    return Write{std::move(event)};
  }
  absl::Status status = error_;
  if (!status.ok()) {
    // Whatever is still to come finds no stream.
  } else if (turn_is_held_) {
    turn_is_held_ = turn_cancelled_ = told_start_ = told_end_ = false;
    starting_ = std::make_shared<RequestWork>(threads_);
    return StartTurn{starting_};
  } else if (!reads_done_ && !stopping_) {
    return Nothing();
  } else if (!reads_done_) {
    status = absl::UnavailableError("the server is stopping; try another one");
  }
  // Whoever has a message in hand may start a read.
  if (in_hand_ > 0) return Nothing();
  finished_ = true;
  return Finish{std::move(status)};
}

bool Conversation::TakeEvent(Event* event) {
  absl::Status end;
  const TurnFeed::State state = feed_->Pop(event, &end);
  if (state == TurnFeed::State::kEmpty) return false;
  if (state == TurnFeed::State::kEvent) {
    if (auto* started = std::get_if<StartedEvent>(event)) {
      told_start_ = true;
      turn_start_ = *started;
    }
    told_end_ = std::holds_alternative<CompletedEvent>(*event);
    return true;
  }
  const TurnFigures figures = feed_->figures();
  feed_ = nullptr;
  if (turn_cancelled_ && absl::IsCancelled(end)) {
    TellCancelled(figures);
  } else {
    error_.Update(end);  // a malformed message may have come before
  }
  return false;
}

void Conversation::TellCancelled(const TurnFigures& figures) {
  if (told_end_) return;  // its fragment was kept
  if (!told_start_) {
    const absl::StatusOr<SessionInfo> session =
        sessions_->Get(SessionName(tenant_, session_id_));
    if (session.ok()) {  // else it has no turns yet
      turn_start_.version = session->version;
      turn_start_.position = session->position;
      turn_start_.cached_tokens = session->position;
    }
    last_events_.push_back(turn_start_);
  }
  CompletedEvent completed;
  completed.finish_reason = FinishReason::kCancelled;
  completed.version = turn_start_.version;
  completed.position = turn_start_.position;
  completed.usage = figures.usage;
  completed.timing = figures.timing;
  last_events_.push_back(std::move(completed));
}

absl::Status Conversation::NameTurn(std::string* session_id,
                                    std::string* model) {
  absl::MutexLock lock(&mutex_);
  if (session_id->empty()) *session_id = session_id_;
  if (session_id->empty()) *session_id = RandomId();
  if (session_id_.empty()) session_id_ = *session_id;
  if (*session_id != session_id_) {
    return absl::InvalidArgumentError(
        absl::StrCat("session_id is ", Quoted(*session_id),
                     ", but this stream is on session ", Quoted(session_id_)));
  }
  if (model->empty()) *model = model_;
  model_ = *model;
  return absl::OkStatus();
}

void Conversation::KeepTurn(absl::StatusOr<std::shared_ptr<TurnFeed>> feed,
                            StartedEvent started) {
  absl::Status gone;
  bool cancelled = false;
  {
    absl::MutexLock lock(&mutex_);
    starting_ = nullptr;
    turn_start_ = std::move(started);
    gone = gone_;
    cancelled = turn_cancelled_;
    if (feed.ok()) {
      feed_ = *feed;
    } else if (cancelled && absl::IsCancelled(feed.status())) {
      TellCancelled(TurnFigures());
    } else {
      error_.Update(feed.status());
    }
  }
  if (!feed.ok()) return;
  if (!gone.ok()) {
    (*feed)->Abandon(gone);
  } else if (cancelled) {
    (*feed)->Cancel(CancelledByClient());
  }
}

}  // namespace engram

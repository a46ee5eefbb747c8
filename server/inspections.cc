#include "server/inspections.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {

void Inspections::Add(SessionQuestion question) {
  const auto refuse = [&](int64_t count, int64_t limit, const char* whose) {
    question.done(absl::UnavailableError(absl::StrCat(
        "the queue is full: ", count, " inspections ", whose, "wait, limit ",
        limit, " (--max-inspections); try again later")));
  };
  const auto all = static_cast<int64_t>(waiting_.size());
  if (all >= most_) return refuse(all, most_, "");
  const auto own = std::count_if(waiting_.begin(), waiting_.end(),
                                 [&](const SessionQuestion& other) {
                                   return other.tenant == question.tenant;
                                 });
  const int64_t half = std::max(1, most_ / 2);
  if (own >= half) return refuse(own, half, "of yours ");
  waiting_.push_back(std::move(question));
}

absl::StatusOr<bool> Inspections::Advance() {
  if (!current_.has_value()) {
    if (waiting_.empty()) return false;
    BeginNext();
    if (!current_.has_value()) return true;
  }
  const absl::Status wanted = current_->question.may_go_on();
  if (!wanted.ok()) {
    EndCurrent(wanted);
    return true;
  }
  if (!current_->snapshot.has_value()) return false;
  absl::StatusOr<bool> done = false;
  if (current_->inspection == nullptr) {
    const absl::Status begun = BeginInspection();
    if (!begun.ok()) {
      EndCurrent(begun);
      return true;
    }
  } else {
    done = current_->inspection->Advance();
  }
  if (!done.ok()) {
    EndCurrent(done.status());
    return done.status();
  }
  if (*done) {
    EndCurrent(SessionLook{(*current_->snapshot)->turns,
                           current_->inspection->TakeAnswer()});
  }
  return true;
}

// Of another tenant than the last one's, if there is one.
void Inspections::BeginNext() {
  auto next = std::find_if(waiting_.begin(), waiting_.end(),
                           [this](const SessionQuestion& question) {
                             return question.tenant != last_tenant_;
                           });
  if (next == waiting_.end()) next = waiting_.begin();
  current_.emplace();
  current_->question = std::move(*next);
  waiting_.erase(next);
  last_tenant_ = current_->question.tenant;
  const int64_t number = ++current_number_;
  if (current_->question.session == nullptr) {
    current_->snapshot = StateSnapshots::Snapshot();
    return;
  }
  fetch_(current_->question.session,
         [this, number](absl::StatusOr<StateSnapshots::Snapshot> snapshot) {
           if (!current_.has_value() || current_number_ != number) return;
           current_->snapshot = std::move(snapshot);
         });
}

absl::Status Inspections::BeginInspection() {
  ENGRAM_RETURN_IF_ERROR(current_->snapshot->status());
  const StateSnapshots::Snapshot& snapshot = **current_->snapshot;
  InspectionQuestion question = current_->question.asked;
  question.position = snapshot.turns.position;
  if (snapshot.block != nullptr) question.state = snapshot.block->data();
  if (const auto pending = snapshot.turns.pending; pending.has_value()) {
    if (question.queries.empty() && question.tokens.empty() &&
        !question.ablation.has_value()) {
      question.queries = {*pending};
    } else {
      question.tokens.insert(question.tokens.begin(), *pending);
    }
  }
  int64_t answered = 0;  // and fed
  if (question.ablation.has_value()) {
    if (question.tokens.empty()) {
      return absl::InvalidArgumentError(
          "there is nothing to feed: the session has no pending token; give a "
          "prompt");
    }
    question.ablation->seen = snapshot.turns.seen.get();
    answered = question.ablation->max_tokens - 1;
  }
  const int64_t most = model_.info().max_positions;
  const int64_t length = question.position +
                         static_cast<int64_t>(question.tokens.size()) +
                         (question.queries.empty() ? 0 : 1) + answered;
  if (most > 0 && length > most) {
    // A sequence that is as long as can be has nothing that comes next.
    if (question.describe) {
      question.queries.clear();
      question.tokens.clear();
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "the session's ", snapshot.turns.tokens(), " tokens and ",
          current_->question.asked.tokens.size(), " more",
          question.queries.empty() ? "" : " and a query",
          answered == 0
              ? ""
              : absl::StrCat(" and ", answered, " of an answer that are fed"),
          " are ", length, ", limit of the model ", most));
    }
  }
  ENGRAM_ASSIGN_OR_RETURN(current_->inspection,
                          model_.Inspect(std::move(question)));
  return absl::OkStatus();
}

void Inspections::EndCurrent(absl::StatusOr<SessionLook> look) {
  const std::optional<Current> ended = std::exchange(current_, std::nullopt);
  ended->question.done(std::move(look));
}

void Inspections::End(const absl::Status& status) {
  if (current_.has_value()) EndCurrent(status);
  for (const SessionQuestion& question : std::exchange(waiting_, {})) {
    question.done(status);
  }
}

}  // namespace engram

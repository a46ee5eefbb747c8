#include "server/state_snapshots.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"
#include "server/slot_number.h"

namespace engram {
namespace {

// Host memory takes several gigabytes a second, and its first touch costs as
// much again.
constexpr size_t kBytesAtATime = size_t{1} << 20;
// What answering takes, as if it were copying.
constexpr size_t kBytesOfAnAnswer = size_t{64} << 10;
// A session that commits faster than its state is copied is not chased for
// ever.
constexpr int kBeginningsMax = 4;

}  // namespace

void StateSnapshots::Add(SessionHandle session, Done done) {
  if (static_cast<int>(jobs_.size()) >= most_) {
    return done(absl::UnavailableError(absl::StrCat(
        "the queue is full: ", jobs_.size(), " copies wait, limit ", most_,
        " (--max-queue); try again later")));
  }
  AddForRequest(std::move(session), std::move(done));
}

void StateSnapshots::AddForRequest(SessionHandle session, Done done) {
  Job job;
  job.session = std::move(session);
  job.done = std::move(done);
  jobs_.push_back(std::move(job));
}

absl::StatusOr<bool> StateSnapshots::Advance() {
  size_t budget = kBytesAtATime;
  while (!jobs_.empty() && budget > 0) {
    absl::StatusOr<Snapshot> result = Snapshot();
    if (!Work(&jobs_.front(), &budget, &result)) {
      return !jobs_.front().is_begun();
    }
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    const auto block = job.block;
    const absl::Status status = result.status();
    job.done(std::move(result));
    if (absl::IsInternal(status)) return status;
    // Who asked holds it by now, so that a copy more takes no memory.
    if (job.is_begun() && copies_.IsDone(job.copy)) {
      sessions_.KeepCopy(job.session, job.slot, job.turns.version, block);
    }
    budget -= std::min(budget, kBytesOfAnAnswer);
  }
  return !jobs_.empty();
}

void StateSnapshots::Finish() {
  while (!jobs_.empty()) {
    if (!Advance().value_or(true)) (void)copies_.Wait();
  }
}

absl::Status StateSnapshots::BeginCopy(Job* job,
                                       const SessionStore::Location& location) {
  job->slot = location.slot;
  job->turns = location.turns;
  const StatePool& states = copies_.states();
  ENGRAM_ASSIGN_OR_RETURN(
      StatePool::HostMemory memory,
      states.AllocateHost(states.bytes(job->slot - FirstSlotOf(device_))));
  job->block = std::make_shared<StateBlock>(std::move(memory.buffer));
  job->is_copied_beside = memory.is_copied_beside;
  job->begun = 0;
  ++job->beginnings;
  return absl::OkStatus();
}

absl::Status StateSnapshots::CopyPart(Job* job, size_t* budget) {
  const size_t left = job->block->size() - job->begun;
  const bool all = job->is_copied_beside || job->beginnings >= kBeginningsMax;
  const size_t bytes = all ? left : std::min(left, *budget);
  ENGRAM_ASSIGN_OR_RETURN(
      job->copy, copies_.BeginSave(job->slot - FirstSlotOf(device_), job->begun,
                                   bytes, job->block));
  job->begun += bytes;
  *budget -= std::min(bytes, *budget);
  return absl::OkStatus();
}

bool StateSnapshots::Work(Job* job, size_t* budget,
                          absl::StatusOr<Snapshot>* result) {
  const absl::StatusOr<SessionStore::Location> location =
      sessions_.Locate(job->session);
  if (!location.ok()) {
    *result = location.status();
    return true;
  }
  if (location->slot < 0 || location->block != nullptr) {
    *result = Snapshot{location->turns, location->block};
    return true;
  }
  if (DeviceOfSlot(location->slot) != device_) {
    *result = absl::AbortedError("the state has gone to another device");
    return true;
  }
  absl::Status status = copies_.failure();
  // What has begun whole is not begun again: its slot is held until then, and
  // who asked did so when the session was as it was.
  const bool begins =
      job->block == nullptr ||
      (!job->is_begun() && (job->slot != location->slot ||
                            job->turns.version != location->turns.version));
  if (status.ok() && begins) status = BeginCopy(job, *location);
  if (status.ok() && !job->is_begun()) status = CopyPart(job, budget);
  if (!status.ok()) {
    *result = status;
    return true;
  }
  if (!job->is_begun() || !copies_.IsDone(job->copy)) return false;
  *result = Snapshot{job->turns, job->block};
  return true;
}

}  // namespace engram

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
    if (!Work(&jobs_.front(), &budget, &result)) return true;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    const auto block = job.block;
    const absl::Status status = result.status();
    job.done(std::move(result));
    if (absl::IsInternal(status)) return status;
    // Who asked holds it by now, so that a copy more takes no memory.
    if (block != nullptr && job.copied == block->size()) {
      sessions_.KeepCopy(job.session, job.slot, job.version, block);
    }
    budget -= std::min(budget, kBytesOfAnAnswer);
  }
  return !jobs_.empty();
}

void StateSnapshots::Finish() {
  while (!jobs_.empty()) (void)Advance();
}

absl::Status StateSnapshots::BeginCopy(Job* job,
                                       const SessionStore::Location& location) {
  job->slot = location.slot;
  job->version = location.turns.version;
  ENGRAM_ASSIGN_OR_RETURN(
      std::unique_ptr<Buffer> memory,
      states_.AllocateHost(states_.bytes(job->slot - FirstSlotOf(device_))));
  job->block = std::make_shared<StateBlock>(std::move(memory));
  job->copied = 0;
  ++job->beginnings;
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
  if (job->block == nullptr || job->slot != location->slot ||
      job->version != location->turns.version) {
    const absl::Status begun = BeginCopy(job, *location);
    if (!begun.ok()) {
      *result = begun;
      return true;
    }
  }
  const size_t left = job->block->size() - job->copied;
  const size_t bytes =
      job->beginnings >= kBeginningsMax ? left : std::min(left, *budget);
  const absl::Status saved =
      states_.SavePart(job->slot - FirstSlotOf(device_), job->copied, bytes,
                       job->block->data() + job->copied);
  if (!saved.ok()) {
    *result = saved;
    return true;
  }
  job->copied += bytes;
  *budget -= std::min(bytes, *budget);
  if (job->copied < job->block->size()) return false;
  *result = Snapshot{location->turns, job->block};
  return true;
}

}  // namespace engram

#include "server/running_sequences.h"

#include <algorithm>
#include <utility>

#include "kernels/status.h"

namespace engram {
namespace {

// How many times as long a prompt is that yields to another.
constexpr int64_t kMuchLonger = 8;

}  // namespace

void RunningSequences::Add(std::unique_ptr<Sequence> sequence) {
  sequence->steps_in_slot = 0;
  // Found full anew before it is parked again: nothing is moved twice at a
  // time.
  sequence->paused_since = absl::InfiniteFuture();
  const TenantHandle& tenant = sequence->request.tenant;
  shares_.Took(NumberOf(tenant), WeightOf(tenant));
  const auto place =
      std::upper_bound(sequences_.begin(), sequences_.end(), sequence,
                       [](const auto& left, const auto& right) {
                         return left->arrival < right->arrival;
                       });
  sequences_.insert(place, std::move(sequence));
}

std::unique_ptr<Sequence> RunningSequences::Take(const Sequence* sequence) {
  const auto place =
      std::find_if(sequences_.begin(), sequences_.end(),
                   [&](const auto& one) { return one.get() == sequence; });
  ENGRAM_CHECK(place != sequences_.end());
  std::unique_ptr<Sequence> taken = std::move(*place);
  sequences_.erase(place);
  shares_.Gave(NumberOf(taken->request.tenant));
  return taken;
}

void RunningSequences::DropOver() {
  std::erase_if(sequences_, [this](const auto& sequence) {
    if (sequence->over) shares_.Gave(NumberOf(sequence->request.tenant));
    return sequence->over;
  });
}

Sequence* RunningSequences::LongestPaused() const {
  const auto paused =
      std::min_element(sequences_.begin(), sequences_.end(),
                       [](const auto& left, const auto& right) {
                         return left->paused_since < right->paused_since;
                       });
  if (paused == sequences_.end() ||
      (*paused)->paused_since == absl::InfiniteFuture()) {
    return nullptr;
  }
  return paused->get();
}

Sequence* RunningSequences::WhoMakesWayFor(
    const WaitingRequest& request) const {
  Sequence* chosen = nullptr;
  double share = 0;  // of the tenant of `chosen`, if it has too much
  for (const auto& sequence : sequences_) {
    if (!HasHadItsSteps(*sequence)) continue;
    const WaitingRequest one = AsWaiting(*sequence);
    double its_share = 0;
    if (one.tenant != request.tenant) {
      if (!shares_.MakesWay(one.tenant, one.weight, request)) continue;
      its_share = shares_.Share(one.tenant, one.weight);
    } else if (!MakesWayFor(*sequence, request)) {
      continue;
    }
    if (chosen == nullptr || its_share > share ||
        (its_share == share && GoesBefore(AsWaiting(*chosen), one))) {
      chosen = sequence.get();
      share = its_share;
    }
  }
  return chosen;
}

bool RunningSequences::HasHadItsSteps(const Sequence& sequence) const {
  // A state is not moved for less work than it takes; but who is fed slowly
  // holds the slot no longer than others.
  return sequence.steps_in_slot >= turns_.steps;
}

bool RunningSequences::MakesWayFor(const Sequence& sequence,
                                   const WaitingRequest& request) const {
  const int priority = sequence.request.priority;
  if (priority != request.priority) return priority < request.priority;
  const auto remaining = static_cast<int64_t>(sequence.remaining());
  return !sequence.decoding && remaining >= turns_.long_prompt_tokens &&
         remaining / kMuchLonger >= request.prompt_tokens;
}

bool RunningSequences::StreamsRun() const {
  return std::any_of(sequences_.begin(), sequences_.end(),
                     [](const auto& sequence) {
                       return sequence->decoding && sequence->stream->HasRoom();
                     });
}

}  // namespace engram

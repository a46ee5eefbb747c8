#include "clients/cpp/bench_load.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "clients/cpp/call_end.h"
#include "clients/cpp/channel.h"
#include "engram/v1/generation.grpc.pb.h"
#include "tools/status/early_return.h"
#include "tools/status/retry_after.h"

namespace engram::client {
namespace {

// A turn that is due at some time.
struct DueTurn {
  SteadyClock::time_point time;
  int64_t conversation = 0;
  int64_t turn = 0;

  bool operator>(const DueTurn& other) const { return time > other.time; }
};

// One call of Generate; deletes itself when gRPC is done with it.
class TurnCall final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  using Finish = std::function<void(TurnRecord)>;

  TurnCall(const DueTurn& due, v1::GenerateRequest request,
           std::shared_ptr<grpc::ClientContext> context, Finish finish)
      : request_(std::move(request)),
        finish_(std::move(finish)),
        context_(std::move(context)) {
    record_.intended_start = due.time;
    record_.tokens.reserve(request_.stopping().max_tokens());
  }

  void Start(v1::Generation::Stub* stub, absl::Duration deadline) {
    if (deadline != absl::InfiniteDuration()) {
      context_->set_deadline(absl::ToChronoTime(absl::Now() + deadline));
    }
    record_.sent = SteadyClock::now();
    stub->async()->Generate(context_.get(), &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    const SteadyClock::time_point now = SteadyClock::now();
    if (!ok) return;
    if (response_.has_token()) record_.tokens.push_back(now);
    if (response_.has_completed()) {
      record_.end = now;
      record_.prompt_tokens = response_.completed().usage().prompt_tokens();
      completed_ = true;
    }
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    if (!completed_) {
      record_.end = SteadyClock::now();
      record_.status =
          status.ok()
              ? absl::InternalError("the stream ended without Completed")
              : ToStatus(status, *context_);
    }
    // First the call, then the word that it ended: its context may not be the
    // last owner of a channel, which gRPC's threads must not destroy.
    TurnRecord record = std::move(record_);
    const Finish finish = std::move(finish_);
    delete this;
    finish(std::move(record));
  }

 private:
  const v1::GenerateRequest request_;
  Finish finish_;
  // Shared, so that it can be cancelled without a lock that OnDone() takes too.
  const std::shared_ptr<grpc::ClientContext> context_;
  v1::GenerateResponse response_;
  TurnRecord record_;
  bool completed_ = false;
};

// One run. The calling thread starts turns; gRPC's threads end them.
class LoadRun {
 public:
  explicit LoadRun(const BenchLoad& load) : load_(load) {}

  absl::Status Connect() {
    for (int64_t i = 0; i < options_.connections; ++i) {
      ENGRAM_ASSIGN_OR_RETURN(
          const auto channel,
          OpenChannel(options_.server, options_.tls, options_.caller,
                      /*own_connection=*/true));
      stubs_.push_back(v1::Generation::NewStub(channel));
    }
    return absl::OkStatus();
  }

  LoadResult Run(Cancellation* cancellation) {
    begin_ = SteadyClock::now();
    next_progress_ = begin_ + Interval();
    PlanFirstConversations();
    const int64_t registration = cancellation->Register([this] { Stop(); });
    while (std::unique_ptr<DueTurn> due = AwaitDueTurn()) StartTurn(*due);
    cancellation->Unregister(registration);
    absl::MutexLock lock(&mutex_);
    return std::move(result_);
  }

 private:
  bool is_open_loop() const { return options_.rate > 0; }

  SteadyClock::duration Interval() const {
    return absl::ToChronoNanoseconds(load_.progress_interval);
  }

  void PlanFirstConversations() {
    absl::MutexLock lock(&mutex_);
    next_arrival_ = begin_;
    for (int64_t i = 0; i < options_.long_prompts; ++i) {
      PlanBeside({begin_, -1 - i, 0});
    }
    const int64_t count = is_open_loop() ? 1 : options_.concurrency;
    for (int64_t i = 0; i < count; ++i) PlanConversation(begin_);
  }

  // Plans the next conversation, if there is to be one: in an open loop at its
  // arrival, in a closed loop at `now`.
  void PlanConversation(SteadyClock::time_point now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    // Subtracted on the left: the number of conversations may be the largest.
    if (planned_ - options_.warm_up >= options_.Conversations()) return;
    if (is_open_loop()) {
      next_arrival_ += DrawArrivalGap(options_.seed, planned_, options_.rate);
      now = next_arrival_;
    }
    if (planned_ == options_.warm_up) measured_begin_ = now;
    PlanTurn({now, planned_, 0});
    ++planned_;
  }

  void PlanTurn(const DueTurn& turn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (stopped_ || IsOver(turn.time)) return;
    due_.push(turn);
    changed_.Signal();
  }

  void PlanBeside(const DueTurn& turn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    due_.push(turn);
    ++beside_due_;
  }

  bool IsOver(SteadyClock::time_point time) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return options_.duration != absl::InfiniteDuration() &&
           measured_begin_.has_value() &&
           time - *measured_begin_ >=
               absl::ToChronoNanoseconds(options_.duration);
  }

  // Waits for the next turn to start; null when there will be none any more and
  // none is running.
  std::unique_ptr<DueTurn> AwaitDueTurn() {
    absl::MutexLock lock(&mutex_);
    while (true) {
      const SteadyClock::time_point now = SteadyClock::now();
      if (now >= next_progress_) {
        ReportProgress(now);
        continue;
      }
      if (due_.empty() && running_.empty()) return nullptr;
      if (!beside_over_ && due_.size() == beside_due_ &&
          running_.size() == beside_.size()) {
        EndBeside();
        continue;
      }
      SteadyClock::time_point wake = next_progress_;
      if (!due_.empty()) {
        if (due_.top().time <= now) break;
        wake = std::min(wake, due_.top().time);
      }
      changed_.WaitWithTimeout(&mutex_, absl::FromChrono(wake - now));
    }
    auto turn = std::make_unique<DueTurn>(due_.top());
    due_.pop();
    if (IsBeside(*turn)) {
      --beside_due_;
    } else if (is_open_loop() && turn->turn == 0) {
      // One arrival brings the next, whatever becomes of it.
      PlanConversation(turn->time);
    }
    return turn;
  }

  // What was measured is over.
  void EndBeside() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    beside_over_ = true;
    due_ = {};
    beside_due_ = 0;
    std::vector<std::shared_ptr<grpc::ClientContext>> contexts;
    for (int64_t number : beside_) contexts.push_back(running_.at(number));
    // A call that ends takes the lock.
    mutex_.Unlock();
    for (const auto& context : contexts) context->TryCancel();
    mutex_.Lock();
  }

  static bool IsBeside(const DueTurn& due) { return due.conversation < 0; }

  void StartTurn(const DueTurn& due) {
    v1::GenerateRequest request = MakeRequest(due);
    auto context = std::make_shared<grpc::ClientContext>();
    TellSession(request.session_id(), context.get());
    int64_t number = 0;
    {
      // Known before it is started: it may end at once, and a stop in between
      // must find what to cancel.
      absl::MutexLock lock(&mutex_);
      if (stopped_) return;
      number = started_++;
      running_.emplace(number, context);
      if (IsBeside(due)) beside_.insert(number);
    }
    auto* call = new TurnCall(due, std::move(request), std::move(context),
                              [this, number, due](TurnRecord record) {
                                TurnEnded(number, due, std::move(record));
                              });
    call->Start(stubs_[std::abs(due.conversation) % options_.connections].get(),
                options_.deadline);
  }

  v1::GenerateRequest MakeRequest(const DueTurn& due) {
    const BenchTurn turn =
        IsBeside(due) ? DrawTurn(options_.seed, due.conversation, due.turn,
                                 options_.long_prompt_tokens, {1, 1},
                                 load_.vocabulary_size)
                      : DrawTurn(options_.seed, due.conversation, due.turn,
                                 options_.prompt_tokens, options_.output_tokens,
                                 load_.vocabulary_size);
    v1::GenerateRequest request;
    request.set_model(options_.model);
    request.mutable_token_ids()->mutable_ids()->Add(turn.prompt.begin(),
                                                    turn.prompt.end());
    request.mutable_stopping()->set_max_tokens(turn.output_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    request.mutable_sampling()->set_temperature(options_.temperature);
    if (options_.sessions > 0 && !IsBeside(due)) {
      request.set_session_id(SessionId(due.conversation));
      request.set_request_id(absl::StrCat("turn-", due.turn));
      request.set_expected_version(due.turn);
    }
    return request;
  }

  std::string SessionId(int64_t conversation) const {
    return absl::StrCat(load_.session_prefix, "-", conversation);
  }

  void TurnEnded(int64_t number, const DueTurn& due, TurnRecord record) {
    absl::MutexLock lock(&mutex_);
    if (IsBeside(due)) return BesideEnded(number, due, std::move(record));
    const bool ok = record.status.ok();
    record.warm_up = due.conversation < options_.warm_up;
    record.interrupted = stopped_ && !ok;
    (ok ? succeeded_ : failed_) += 1;
    output_tokens_ += static_cast<int64_t>(record.tokens.size());
    if (options_.sessions > 0 && due.turn == 0) {
      result_.session_ids.push_back(SessionId(due.conversation));
    }
    const SteadyClock::time_point end = record.end;
    result_.turns.push_back(std::move(record));
    running_.erase(number);

    if (ok && due.turn + 1 < options_.turns) {
      PlanTurn({end + absl::ToChronoNanoseconds(options_.think_time),
                due.conversation, due.turn + 1});
    } else if (!is_open_loop()) {
      PlanConversation(end);
    }
    changed_.Signal();
  }

  // Another one takes its place: when the server asks for it if it is busy, and
  // not after any other error, which that would meet too.
  void BesideEnded(int64_t number, const DueTurn& due, TurnRecord record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const bool ok = record.status.ok();
    record.beside = true;
    record.interrupted = !ok && (beside_over_ || stopped_);
    const SteadyClock::time_point end = record.end;
    const std::optional<absl::Duration> wait =
        ok ? std::make_optional(absl::ZeroDuration())
           : RetryAfter(record.status);
    result_.turns.push_back(std::move(record));
    running_.erase(number);
    beside_.erase(number);
    if (wait.has_value() && !beside_over_ && !stopped_) {
      PlanBeside({end + absl::ToChronoNanoseconds(*wait), due.conversation,
                  due.turn + 1});
    }
    changed_.Signal();
  }

  void Stop() {
    std::vector<std::shared_ptr<grpc::ClientContext>> contexts;
    {
      absl::MutexLock lock(&mutex_);
      stopped_ = true;
      due_ = {};
      beside_due_ = 0;
      for (const auto& [number, context] : running_)
        contexts.push_back(context);
      changed_.Signal();
    }
    for (const auto& context : contexts) context->TryCancel();
  }

  void ReportProgress(SteadyClock::time_point now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    next_progress_ = now + Interval();
    if (!load_.on_progress) return;
    const BenchProgress progress = {
        std::chrono::duration<double>(now - begin_).count(),
        started_,
        static_cast<int64_t>(running_.size()),
        succeeded_,
        failed_,
        output_tokens_};
    // A terminal may be slow; the calls need not wait for it.
    mutex_.Unlock();
    load_.on_progress(progress);
    mutex_.Lock();
  }

  const BenchLoad& load_;
  const BenchOptions& options_ = load_.options;
  std::vector<std::unique_ptr<v1::Generation::Stub>> stubs_;
  SteadyClock::time_point begin_;
  SteadyClock::time_point next_progress_;

  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::priority_queue<DueTurn, std::vector<DueTurn>, std::greater<>> due_
      ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, std::shared_ptr<grpc::ClientContext>> running_
      ABSL_GUARDED_BY(mutex_);
  std::set<int64_t> beside_ ABSL_GUARDED_BY(mutex_);  // of running_
  size_t beside_due_ ABSL_GUARDED_BY(mutex_) = 0;     // of due_
  bool beside_over_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t planned_ ABSL_GUARDED_BY(mutex_) = 0;  // Conversations.
  SteadyClock::time_point next_arrival_ ABSL_GUARDED_BY(mutex_);
  // When the first conversation after the warm-up is due.
  std::optional<SteadyClock::time_point> measured_begin_
      ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t started_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t succeeded_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t failed_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t output_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  LoadResult result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<LoadResult> RunLoad(const BenchLoad& load,
                                   Cancellation* cancellation) {
  LoadRun run(load);
  ENGRAM_RETURN_IF_ERROR(run.Connect());
  return run.Run(cancellation);
}

}  // namespace engram::client

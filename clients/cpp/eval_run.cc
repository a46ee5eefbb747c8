#include "clients/cpp/eval_run.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "tools/status/early_return.h"
#include "tools/status/retry_after.h"

namespace engram::client {
namespace {

using Clock = std::chrono::steady_clock;

// One run. Workers of its own ask; the calling thread tells of the progress.
class Runner {
 public:
  Runner(const EvalRun& run, Client* client)
      : run_(run),
        evaluation_(run.evaluation),
        symbols_(SymbolsOf(evaluation_.settings.vocabulary)),
        client_(client) {}

  absl::StatusOr<EvalResult> Run(Cancellation* cancellation) {
    begin_ = Clock::now();
    // Also an error ends what the others are at.
    const int64_t registration =
        cancellation->Register([this] { stop_.Cancel(); });
    std::vector<std::thread> workers;
    const int64_t count = std::min(evaluation_.concurrency, evaluation_.count);
    {
      absl::MutexLock lock(&mutex_);
      working_ = count;
    }
    for (int64_t i = 0; i < count; ++i) {
      workers.emplace_back([this] { Work(); });
    }
    WatchProgress();
    for (std::thread& worker : workers) worker.join();
    cancellation->Unregister(registration);

    absl::MutexLock lock(&mutex_);
    ENGRAM_RETURN_IF_ERROR(error_);
    result_.seconds = Seconds();
    return result_;
  }

 private:
  double Seconds() const {
    return std::chrono::duration<double>(Clock::now() - begin_).count();
  }

  void WatchProgress() {
    const auto interval = absl::ToChronoNanoseconds(run_.progress_interval);
    Clock::time_point next = begin_ + interval;
    absl::MutexLock lock(&mutex_);
    while (working_ > 0) {
      const Clock::time_point now = Clock::now();
      if (now < next) {
        changed_.WaitWithTimeout(&mutex_, absl::FromChrono(next - now));
        continue;
      }
      next = now + interval;
      if (!run_.on_progress) continue;
      const EvalProgress progress = {Seconds(), result_.count, result_.right,
                                     tokens_};
      // A terminal may be slow; the workers need not wait for it.
      mutex_.Unlock();
      run_.on_progress(progress);
      mutex_.Lock();
    }
  }

  void Work() {
    while (!stop_.cancelled()) {
      const int64_t number = TakeNumber();
      if (number >= evaluation_.count) break;
      const Example example =
          DrawExample(evaluation_.settings, evaluation_.seed, number);
      const absl::StatusOr<std::string> answer =
          evaluation_.through_session ? AskSession(example, number)
                                      : AskAtOnce(example);
      Record(example, answer);
    }
    absl::MutexLock lock(&mutex_);
    --working_;
    changed_.Signal();
  }

  int64_t TakeNumber() {
    absl::MutexLock lock(&mutex_);
    return next_++;
  }

  void Record(const Example& example,
              const absl::StatusOr<std::string>& answer) {
    absl::MutexLock lock(&mutex_);
    if (answer.ok()) {
      ++result_.count;
      result_.right += *answer == symbols_[example.answer];
      result_.prompt_tokens += static_cast<int64_t>(example.prompt.size());
      return;
    }
    // Of what ends because of the stop, nobody needs to hear.
    if (stop_.cancelled()) return;
    error_ = answer.status();
    stop_.Cancel();
  }

  v1::GenerateRequest GreedyRequest(int32_t max_tokens) const {
    v1::GenerateRequest request;
    request.set_model(evaluation_.model);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    return request;
  }

  // The turn's text, without the blank that stands between symbols.
  absl::StatusOr<std::string> Generate(const v1::GenerateRequest& request,
                                       int64_t prompt_tokens) {
    std::string text;
    absl::Status status;
    // Each question must be answered, however often a busy server refuses it:
    // the client has waited each time as it was told to.
    do {
      text.clear();
      status =
          client_->Generate(request,
                            [&](const v1::GenerateResponse& response) {
                              absl::StrAppend(&text, response.token().text(),
                                              response.completed().text());
                            },
                            {.cancellation = &stop_});
    } while (absl::IsUnavailable(status) && RetryAfter(status).has_value());
    ENGRAM_RETURN_IF_ERROR(status);
    absl::MutexLock lock(&mutex_);
    tokens_ += prompt_tokens;
    return std::string(absl::StripAsciiWhitespace(text));
  }

  absl::StatusOr<std::string> AskAtOnce(const Example& example) {
    v1::GenerateRequest request = GreedyRequest(1);
    request.set_text(PromptText(example.prompt, symbols_));
    return Generate(request, static_cast<int64_t>(example.prompt.size()));
  }

  absl::StatusOr<std::string> AskSession(const Example& example,
                                         int64_t number) {
    const std::string session_id =
        absl::StrCat(run_.session_prefix, "-", number);
    absl::StatusOr<std::string> answer = Feed(example, session_id);
    if (answer.ok()) {
      const absl::Status status = NoteStateBytes(session_id);
      if (!status.ok()) answer = status;
    }
    DeleteSession(session_id);
    return answer;
  }

  absl::StatusOr<std::string> Feed(const Example& example,
                                   const std::string& session_id) {
    const std::vector<int32_t>& prompt = example.prompt;
    const size_t turn_tokens = static_cast<size_t>(evaluation_.turn_tokens);
    absl::StatusOr<std::string> answer;
    int64_t version = 0;
    for (size_t begin = 0; begin < prompt.size(); begin += turn_tokens) {
      const size_t end = std::min(begin + turn_tokens, prompt.size());
      v1::GenerateRequest request = GreedyRequest(end == prompt.size() ? 1 : 0);
      request.set_session_id(session_id);
      request.set_expected_version(version++);
      auto* ids = request.mutable_token_ids()->mutable_ids();
      for (size_t i = begin; i < end; ++i) ids->Add(run_.symbol_ids[prompt[i]]);
      answer = Generate(request, static_cast<int64_t>(end - begin));
      if (!answer.ok()) break;
    }
    return answer;
  }

  absl::Status NoteStateBytes(const std::string& session_id) {
    v1::GetSessionRequest request;
    request.set_session_id(session_id);
    ENGRAM_ASSIGN_OR_RETURN(
        const v1::Session session,
        client_->GetSession(request, {.cancellation = &stop_}));
    absl::MutexLock lock(&mutex_);
    result_.state_bytes = std::max(result_.state_bytes, session.state_bytes());
    return absl::OkStatus();
  }

  // Not cancelled with the rest: what was made is to go.
  void DeleteSession(const std::string& session_id) {
    v1::DeleteSessionRequest request;
    request.set_session_id(session_id);
    const absl::Status status =
        client_->DeleteSession(request, {.deadline = absl::Seconds(10)})
            .status();
    // The turn that would have made it may have failed.
    if (status.ok() || absl::IsNotFound(status)) return;
    absl::MutexLock lock(&mutex_);
    ++result_.sessions_left;
  }

  const EvalRun& run_;
  const Evaluation& evaluation_;
  const std::vector<std::string> symbols_;
  Client* const client_;
  Clock::time_point begin_;
  Cancellation stop_;

  absl::Mutex mutex_;
  absl::CondVar changed_;
  int64_t working_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  EvalResult result_ ABSL_GUARDED_BY(mutex_);
};

absl::Status LacksSymbols(const std::string& model, int64_t vocabulary,
                          absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat("model '", model, "' lacks symbols of vocabulary ",
                   vocabulary, ": ", why));
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> FindSymbolIds(const std::string& model,
                                                   int64_t vocabulary,
                                                   Client* client,
                                                   const CallOptions& options) {
  const std::vector<std::string> symbols = SymbolsOf(vocabulary);
  v1::TokenizeRequest request;
  request.set_model(model);
  request.set_text(absl::StrJoin(symbols, " "));
  request.set_pieces(true);
  absl::StatusOr<v1::TokenizeResponse> answer =
      client->Tokenize(request, options);
  // A tokenizer of words refuses those it does not have.
  if (absl::IsInvalidArgument(answer.status())) {
    return LacksSymbols(model, vocabulary, answer.status().message());
  }
  ENGRAM_ASSIGN_OR_RETURN(const v1::TokenizeResponse response,
                          std::move(answer));
  // Others take words apart.
  for (size_t i = 0; i < symbols.size(); ++i) {
    const int place = static_cast<int>(i);
    if (place >= response.pieces_size() ||
        absl::StripAsciiWhitespace(response.pieces(place)) != symbols[i]) {
      return LacksSymbols(
          model, vocabulary,
          absl::StrCat("'", symbols[i], "' is not one token of it"));
    }
  }
  return std::vector<int32_t>(response.token_ids().begin(),
                              response.token_ids().end());
}

absl::StatusOr<EvalResult> RunEvaluation(const EvalRun& run, Client* client,
                                         Cancellation* cancellation) {
  return Runner(run, client).Run(cancellation);
}

}  // namespace engram::client

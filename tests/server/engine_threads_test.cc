// The engine on its own thread, while others submit, cancel, delete, fork and
// read: for ThreadSanitizer above all.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "server/engine.h"
#include "tests/server/test_engine.h"
#include "tests/support/named.h"

namespace engram {
namespace {

// A reader that waits: Ready is called on a delivery thread.
class WaitingReader {
 public:
  explicit WaitingReader(std::shared_ptr<TokenStream> stream)
      : stream_(std::move(stream)) {
    stream_->SetReady([this] {
      absl::MutexLock lock(&mutex_);
      ready_ = true;
    });
  }

  // Reads to the end; cancels after `tokens` of them.
  absl::Status ReadAll(int tokens) {
    while (true) {
      Event event;
      absl::Status status;
      switch (stream_->Pop(&event, &status)) {
        case TokenStream::State::kEnd:
          return status;
        case TokenStream::State::kEvent:
          if (std::holds_alternative<TokenEvent>(event) && --tokens == 0) {
            stream_->Cancel(absl::CancelledError("enough"));
          }
          break;
        case TokenStream::State::kEmpty: {
          absl::MutexLock lock(&mutex_);
          mutex_.Await(absl::Condition(&ready_));
          ready_ = false;
        }
      }
    }
  }

 private:
  const std::shared_ptr<TokenStream> stream_;
  absl::Mutex mutex_;
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;
};

// An engine with RealClock on its own thread.
struct ThreadedEngine {
  explicit ThreadedEngine(const SessionLimits& limits)
      : sessions(limits, RealClock()),
        number(sessions.AddModel("scripted", CapacityOf(model.info()))),
        admission({.max_queue = 8, .stream_tokens = 4},
                  {
                      .number = number,
                      .vocabulary_size = 16,
                      .capacity = CapacityOf(model.info()),
                  },
                  &sessions, RealClock()),
        engine({.name = "scripted", .model = &model, .number = number}, {},
               &admission.inbox(), &sessions, &delivery, RealClock(), nullptr,
               [this](const RequestSummary&) { ++ended; }),
        thread([this] { status = engine.Run(); }) {}

  absl::Status Stop() {
    admission.inbox().Close("the test is over");
    engine.Drain(RealClock()->Now() + absl::Seconds(60));
    thread.join();
    return status;
  }

  Script script{16};
  ScriptedModel model{
      &script, {.slots = 3, .max_batch_tokens = 8, .max_logits_rows = 9}};
  SessionStore sessions;
  const int number;
  Admission admission;
  Delivery delivery{2};
  std::atomic<int> ended = 0;
  Engine engine;
  absl::Status status;
  std::thread thread;
};

// Forks and waits for it.
void Fork(ThreadedEngine* engine, const std::string& source,
          const std::string& target) {
  absl::StatusOr<SessionHandle> session = engine->sessions.Find(Named(source));
  if (!session.ok()) return;
  absl::Notification done;
  engine->engine.Fork(*session, target, [&](absl::StatusOr<SessionInfo> fork) {
    fork.status().IgnoreError();
    done.Notify();
  });
  done.WaitForNotification();
}

// The request `i` of `client`.
Request RequestOf(int client, int i, const std::string& session) {
  Request request = TestEngine::Turn(i % 5 == 0 ? "" : session,
                                     absl::StrCat("c", client, "r", i),
                                     Tokens(1 + i % 20, client), i % 12);
  request.keep_partial = i % 2 == 0;
  if (i % 7 == 3) request.kind = RequestKind::kScore;
  return request;
}

// Submits until it is admitted: waits for another's turn on the session, and
// starts a session anew that has left. nullptr: a session to score after is not
// there, which alone may stand in the way.
std::shared_ptr<TokenStream> SubmitUntilAdmitted(ThreadedEngine* engine,
                                                 const Request& request) {
  while (true) {
    absl::StatusOr<Admission::Admitted> turn =
        engine->admission.Submit(request);
    if (turn.ok()) {
      auto* stream = std::get_if<std::shared_ptr<TokenStream>>(&*turn);
      EXPECT_NE(stream, nullptr) << "answered from a record";
      return stream == nullptr ? nullptr : *stream;
    }
    if (turn.status().code() == absl::StatusCode::kNotFound) {
      if (request.kind == RequestKind::kScore) return nullptr;
      engine->sessions.Delete(Named(request.session_id)).IgnoreError();
    } else if (turn.status().code() != absl::StatusCode::kAborted) {
      ADD_FAILURE() << turn.status();
      return nullptr;
    }
    std::this_thread::yield();
  }
}

TEST(EngineThreads, ServeManyAtATimeAndEndEachOnce) {
  constexpr int kClients = 4;
  constexpr int kRequests = 100;
  SessionLimits limits;
  limits.memory_bytes = 64 << 10;  // little enough that sessions leave
  ThreadedEngine engine(limits);
  std::atomic<int> admitted = 0;
  std::atomic<int> nothing_to_score = 0;
  std::vector<std::thread> clients;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < kRequests; ++i) {
        const std::string session = absl::StrCat("s", (client + i) % 6);
        if (i % 11 == 4) engine.sessions.Delete(Named(session)).IgnoreError();
        if (i % 11 == 7) Fork(&engine, session, absl::StrCat("fork", i % 3));
        const std::shared_ptr<TokenStream> stream =
            SubmitUntilAdmitted(&engine, RequestOf(client, i, session));
        engine.sessions.List(nullptr, -1, "", 10);
        engine.sessions.Counts();
        if (stream == nullptr) {
          ++nothing_to_score;
          continue;
        }
        ++admitted;
        WaitingReader(stream).ReadAll(i % 9).IgnoreError();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(engine.Stop().ok());
  EXPECT_EQ(engine.ended, admitted);
  EXPECT_EQ(admitted + nothing_to_score, kClients * kRequests);
  // Every seventh is a score, and most of them are of a session.
  EXPECT_GT(admitted, kClients * kRequests * 6 / 7);
}

TEST(EngineThreads, AnswerAloneAndTogetherAlike) {
  ThreadedEngine engine(SessionLimits{});
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      Tokens history;
      for (int turn = 0; turn < 10; ++turn) {
        const Request request =
            TestEngine::Turn(absl::StrCat("s", client), absl::StrCat("r", turn),
                             Tokens(1 + 3 * turn, client), 5);
        const Tokens expected =
            ExpectAnswer(engine.script, history, request, nullptr, {}).tokens;
        absl::StatusOr<Admission::Admitted> admitted =
            engine.admission.Submit(request);
        ASSERT_TRUE(admitted.ok()) << admitted.status();
        WaitingReader reader(std::get<std::shared_ptr<TokenStream>>(*admitted));
        ASSERT_TRUE(reader.ReadAll(-1).ok());
        // The repeat tells what it said.
        admitted = engine.admission.Submit(request);
        ASSERT_TRUE(admitted.ok()) << admitted.status();
        EXPECT_EQ(
            std::get<std::shared_ptr<const TurnRecord>>(*admitted)->tokens,
            expected);
        history.insert(history.end(), request.prompt.begin(),
                       request.prompt.end());
        history.insert(history.end(), expected.begin(), expected.end());
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(engine.Stop().ok());
}

}  // namespace
}  // namespace engram

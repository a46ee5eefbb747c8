// TestEngine: a whole engine without a thread, on a FakeClock and a
// ScriptedModel; and Reader, a client that reads one answer.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/backend.h"
#include "model/tokenizer.h"
#include "server/admission.h"
#include "server/engine.h"
#include "server/session_store.h"
#include "tests/support/fake_clock.h"
#include "tests/support/scripted_model.h"

namespace engram {

// Ids 0 to 255 are the bytes, 256 is the special "<|endoftext|>" and 257 the
// ordinary "hello".
std::unique_ptr<Tokenizer> MakeByteTokenizer();
constexpr int64_t kByteTokenizerIds = 258;
constexpr int32_t kEndOfText = 256;
constexpr int32_t kHelloToken = 257;
NewSession EmptySession(const std::string& session_id, int model = 0);
// A turn of `request` on a store without an engine, one token long: begun, and
// committed with its state in `slot`. `record`: what is kept for a repeat
// beside the ids. It must be a turn of model 0 that can be run.
void CommitTurn(SessionStore* store, const Request& request, int slot,
                TurnRecord record = {});
// The ids of the bytes of `text`.
Tokens Bytes(const std::string& text);

// Reads a stream and checks the order of its events: Started, Tokens with
// indices that go up by one, Completed, end.
class Reader {
 public:
  Reader() = default;
  explicit Reader(std::shared_ptr<TokenStream> stream)
      : stream_(std::move(stream)) {}

  // What is there now; at most `count` events.
  void Read(int count = 1 << 30);
  // From now on Read finds nothing until the reader is told that there is
  // something, as a call of the server is. Before the first Read.
  void WaitToBeTold();
  void Cancel(absl::Status reason = absl::CancelledError("the client left")) {
    stream_->Cancel(std::move(reason));
  }

  bool ended() const { return ended_; }
  const absl::Status& status() const { return status_; }
  const std::optional<StartedEvent>& started() const { return started_; }
  const std::vector<TokenEvent>& tokens() const { return tokens_; }
  const std::optional<CompletedEvent>& completed() const { return completed_; }
  Tokens ids() const;
  std::string text() const;  // the tail in Completed included
  std::vector<std::optional<float>> logprobs() const;

 private:
  void Take(Event event);

  std::shared_ptr<TokenStream> stream_;
  std::shared_ptr<bool> told_;  // if it waits for that
  std::optional<StartedEvent> started_;
  std::vector<TokenEvent> tokens_;
  std::optional<CompletedEvent> completed_;
  bool ended_ = false;
  absl::Status status_;
};

struct TestEngineOptions {
  int64_t vocabulary_size = 16;
  ModelLimits model = {
      .slots = 4, .max_batch_tokens = 16, .max_logits_rows = 17};
  bool has_attention = false;  // see ScriptedModel
  bool runs_ahead = false;     // likewise
  Backend* backend = nullptr;  // likewise
  AdmissionLimits admission;
  SessionLimits sessions;
  EngineOptions engine;
  const Tokenizer* tokenizer = nullptr;
  Tokens eos_token_ids;
  int devices = 1;  // each with such a model and an engine
  // Readers that set SetReady are told by delivery.TellNext() alone; else at
  // once.
  bool delivers_by_hand = false;
};

// Ordinary memory for a state of so many bytes.
inline std::shared_ptr<StateBlock> MakeBlock(size_t bytes) {
  return std::make_shared<StateBlock>(*AllocateOrdinaryMemory(bytes));
}

class TestEngine {
 public:
  explicit TestEngine(TestEngineOptions options = {});

  // A request without session: `max_tokens` after `prompt`, greedily.
  static Request Generate(Tokens prompt, int64_t max_tokens);
  // One turn on a session.
  static Request Turn(const std::string& session_id,
                      const std::string& request_id, Tokens prompt,
                      int64_t max_tokens);
  static Request Score(const std::string& session_id, Tokens prompt);

  // As the wire makes it: with the tokens that end a text.
  Request Resolved(Request request) const;
  // Adds a test failure if it is refused or answered from a record.
  Reader Submit(Request request);
  absl::Status Refusal(Request request);
  // The record that the request is answered from; nullptr and a test failure
  // if it is not.
  std::shared_ptr<const TurnRecord> Recorded(Request request);

  // One iteration of every engine. False if none had anything to run.
  bool RunOnce();
  // Until there is nothing to run.
  void RunUntilIdle();
  // Submits, runs and reads until there is nothing to run.
  Reader Run(Request request);
  // As Sessions.Fork does it; runs the engine if it must copy.
  absl::Status Fork(const std::string& source, const std::string& target);
  // The committed state, without running anything.
  absl::StatusOr<StateSnapshots::Snapshot> StateOf(
      const SessionHandle& session);

  ExpectedAnswer Expect(const Tokens& history, const Request& request) const {
    return ExpectAnswer(script, history, request, options.tokenizer,
                        options.eos_token_ids);
  }
  // Every slot is free, or a sequence's that runs (one or two of them), or
  // holds a committed session.
  void ExpectNoSlotLost();

  const TestEngineOptions options;
  FakeClock clock;
  Script script;
  ScriptedModel model;
  SessionStore sessions;
  const int number;
  Admission admission;
  Delivery delivery;
  std::vector<RequestSummary> ended;  // in order
  // Called for each end, after it is added to `ended`.
  std::function<void(const RequestSummary&)> on_end;
  Engine engine;

  // Those of the other devices.
  struct Device {
    Device(TestEngine* all, int index);
    ScriptedModel model;
    Engine engine;
  };
  std::vector<std::unique_ptr<Device>> others;
  ScriptedModel& model_of(int device) {
    return device == 0 ? model : others[device - 1]->model;
  }
  Engine& engine_of(int device) {
    return device == 0 ? engine : others[device - 1]->engine;
  }

 private:
  std::function<void(const RequestSummary&)> WhenEnded();
};

}  // namespace engram

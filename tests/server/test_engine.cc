#include "tests/server/test_engine.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>
#include <variant>

#include "gtest/gtest.h"
#include "kernels/status.h"
#include "model/unicode.h"
#include "server/slot_number.h"
#include "tests/support/named.h"

namespace engram {
namespace {

// GPT-2's name for a byte: printable ones are themselves, the others are the
// characters from U+0100 on, in order.
std::string NameOfByte(int byte, int* unprintable) {
  const bool printable = (byte >= 33 && byte <= 126) ||
                         (byte >= 161 && byte <= 172) || byte >= 174;
  std::string name;
  AppendUtf8(printable ? byte : 256 + (*unprintable)++, &name);
  return name;
}

AdmissionModel QueuedModel(const TestEngineOptions& options, const Model& model,
                           int number) {
  return {.number = number,
          .vocabulary_size = options.vocabulary_size,
          .capacity = CapacityOf(model.info()),
          .tokenizer = options.tokenizer,
          .devices = options.devices};
}

EngineModel RunModel(Model* model, int number, int device) {
  return {
      .name = "scripted", .model = model, .number = number, .device = device};
}

}  // namespace

std::unique_ptr<Tokenizer> MakeByteTokenizer() {
  using Json = nlohmann::json;
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  Json vocabulary = Json::object();
  int unprintable = 0;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[NameOfByte(byte, &unprintable)] = byte;
  }
  const auto added = [](int32_t id, const std::string& content, bool special) {
    return Json{
        {"id", id},          {"content", content},  {"lstrip", false},
        {"rstrip", false},   {"normalized", false}, {"single_word", false},
        {"special", special}};
  };
  const Json content = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"post_processor", nullptr},
      {"decoder", byte_level},
      {"added_tokens", Json::array({added(kEndOfText, "<|endoftext|>", true),
                                    added(kHelloToken, "hello", false)})},
      {"model",
       {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      Tokenizer::Parse(content.dump());
  ENGRAM_CHECK_OK(tokenizer.status());
  return *std::move(tokenizer);
}

Tokens Bytes(const std::string& text) {
  Tokens ids;
  for (unsigned char byte : text) ids.push_back(byte);
  return ids;
}

NewSession EmptySession(const std::string& session_id, int model) {
  return {.name = Named(session_id), .model = model};
}

void CommitTurn(SessionStore* store, const Request& request, int slot,
                TurnRecord record) {
  auto begun = store->BeginTurn(/*model=*/0, request, nullptr);
  ASSERT_TRUE(begun.ok()) << begun.status();
  auto& turn = std::get<SessionStore::Turn>(*begun);
  CommittedTurns turns = turn.start;
  ++turns.version;
  ++turns.position;
  record.request_id = request.request_id;
  record.identity = request.identity;
  ASSERT_TRUE(store->Commit(turn.session, turns, slot, std::move(record)));
}

// --- Reader.

void Reader::WaitToBeTold() {
  told_ = std::make_shared<bool>(true);
  stream_->SetReady([told = told_] {
    EXPECT_FALSE(*told) << "told twice of one thing";
    *told = true;
  });
}

void Reader::Read(int count) {
  for (; count > 0; --count) {
    if (told_ != nullptr && !*told_) return;
    Event event;
    const TokenStream::State state = stream_->Pop(&event, &status_);
    if (state == TokenStream::State::kEmpty) {
      if (told_ != nullptr) *told_ = false;
      return;
    }
    if (state == TokenStream::State::kEnd) {
      ended_ = true;
      EXPECT_TRUE(!status_.ok() || completed_.has_value())
          << "a good end without Completed";
      return;
    }
    Take(std::move(event));
  }
}

void Reader::Take(Event event) {
  EXPECT_FALSE(completed_.has_value()) << "an event after Completed";
  if (auto* started = std::get_if<StartedEvent>(&event)) {
    EXPECT_FALSE(started_.has_value()) << "Started twice";
    started_ = std::move(*started);
  } else if (auto* token = std::get_if<TokenEvent>(&event)) {
    EXPECT_TRUE(started_.has_value()) << "a token before Started";
    if (!tokens_.empty()) {
      EXPECT_EQ(token->index, tokens_.back().index + 1);
    }
    tokens_.push_back(std::move(*token));
  } else {
    EXPECT_TRUE(started_.has_value()) << "Completed before Started";
    completed_ = std::move(std::get<CompletedEvent>(event));
  }
}

Tokens Reader::ids() const {
  Tokens ids;
  for (const TokenEvent& token : tokens_) ids.push_back(token.id);
  return ids;
}

std::string Reader::text() const {
  std::string text;
  for (const TokenEvent& token : tokens_) text += token.text;
  return completed_.has_value() ? text + completed_->text : text;
}

std::vector<std::optional<float>> Reader::logprobs() const {
  std::vector<std::optional<float>> logprobs;
  for (const TokenEvent& token : tokens_) logprobs.push_back(token.logprob);
  return logprobs;
}

// --- TestEngine.

TestEngine::TestEngine(TestEngineOptions taken)
    : options(std::move(taken)),
      script(options.vocabulary_size),
      model(&script, options.model, options.has_attention, options.backend),
      sessions(options.sessions, &clock),
      number(sessions.AddModel("scripted", CapacityOf(model.info()),
                               options.devices)),
      admission(options.admission, QueuedModel(options, model, number),
                &sessions, &clock),
      delivery(options.delivers_by_hand ? Delivery(Delivery::ByHand())
                                        : Delivery(/*threads=*/0)),
      engine(RunModel(&model, number, 0), options.engine, &admission.inbox(),
             &sessions, &delivery, &clock, /*metrics=*/nullptr, WhenEnded()) {
  for (int i = 1; i < options.devices; ++i) {
    others.push_back(std::make_unique<Device>(this, i));
  }
  std::vector<Engine*> engines;
  for (int i = 0; i < options.devices; ++i) engines.push_back(&engine_of(i));
  for (Engine* const each : engines) each->SetEngines(engines);
  if (!options.runs_ahead) return;
  for (int i = 0; i < options.devices; ++i) model_of(i).RunAhead();
}

TestEngine::Device::Device(TestEngine* all, int index)
    : model(&all->script, all->options.model, all->options.has_attention,
            all->options.backend),
      engine(RunModel(&model, all->number, index), all->options.engine,
             &all->admission.inbox(index), &all->sessions, &all->delivery,
             &all->clock, /*metrics=*/nullptr, all->WhenEnded()) {}

std::function<void(const RequestSummary&)> TestEngine::WhenEnded() {
  return [this](const RequestSummary& summary) {
    ended.push_back(summary);
    if (on_end) on_end(summary);
  };
}

Request TestEngine::Generate(Tokens prompt, int64_t max_tokens) {
  Request request;
  request.request_id = "request";
  request.prompt = std::move(prompt);
  request.stopping.max_tokens = max_tokens;
  return request;
}

Request TestEngine::Turn(const std::string& session_id,
                         const std::string& request_id, Tokens prompt,
                         int64_t max_tokens) {
  Request request = Generate(std::move(prompt), max_tokens);
  request.session_id = session_id;
  request.request_id = request_id;
  return request;
}

Request TestEngine::Score(const std::string& session_id, Tokens prompt) {
  Request request = Generate(std::move(prompt), 0);
  request.kind = RequestKind::kScore;
  request.session_id = session_id;
  return request;
}

Request TestEngine::Resolved(Request request) const {
  Stopping& stopping = request.stopping;
  if (!stopping.ignore_eos) stopping.end_of_text_ids = options.eos_token_ids;
  return request;
}

Reader TestEngine::Submit(Request request) {
  absl::StatusOr<Admission::Admitted> admitted =
      admission.Submit(Resolved(std::move(request)));
  EXPECT_TRUE(admitted.ok()) << admitted.status();
  if (admitted.ok()) {
    auto* stream = std::get_if<std::shared_ptr<TokenStream>>(&*admitted);
    EXPECT_NE(stream, nullptr) << "answered from a record";
    if (stream != nullptr) return Reader(std::move(*stream));
  }
  // Something that can be read: an end at once.
  auto nothing = std::make_shared<TokenStream>(1, [] {});
  (void)nothing->End(absl::UnknownError("not admitted"));
  return Reader(nothing);
}

absl::Status TestEngine::Refusal(Request request) {
  return admission.Submit(Resolved(std::move(request))).status();
}

std::shared_ptr<const TurnRecord> TestEngine::Recorded(Request request) {
  absl::StatusOr<Admission::Admitted> admitted =
      admission.Submit(Resolved(std::move(request)));
  EXPECT_TRUE(admitted.ok()) << admitted.status();
  if (!admitted.ok()) return nullptr;
  auto* record = std::get_if<std::shared_ptr<const TurnRecord>>(&*admitted);
  EXPECT_NE(record, nullptr) << "not answered from a record";
  return record == nullptr ? nullptr : *record;
}

bool TestEngine::RunOnce() {
  bool worked = engine.RunOnce();
  for (const auto& device : others) worked |= device->engine.RunOnce();
  return worked;
}

void TestEngine::RunUntilIdle() {
  while (RunOnce()) {
  }
}

Reader TestEngine::Run(Request request) {
  Reader reader = Submit(std::move(request));
  do {
    reader.Read();
  } while (RunOnce());
  reader.Read();
  return reader;
}

absl::Status TestEngine::Fork(const std::string& source,
                              const std::string& target) {
  ENGRAM_ASSIGN_OR_RETURN(const SessionHandle session,
                          sessions.Find(Named(source)));
  std::optional<absl::Status> forked;
  engine.Fork(session, target, [&](absl::StatusOr<SessionInfo> fork) {
    forked = fork.status();
  });
  while (!forked.has_value()) RunOnce();
  return *forked;
}

absl::StatusOr<StateSnapshots::Snapshot> TestEngine::StateOf(
    const SessionHandle& session) {
  ENGRAM_ASSIGN_OR_RETURN(SessionStore::Location location,
                          sessions.Locate(session));
  StateSnapshots::Snapshot snapshot{location.turns, location.block};
  if (location.slot >= 0) {
    const int device = DeviceOfSlot(location.slot);
    const int slot = location.slot - FirstSlotOf(device);
    StatePool& states = model_of(device).states();
    auto block = MakeBlock(states.bytes(slot));
    ENGRAM_RETURN_IF_ERROR(states.Save(slot, block->data()));
    if (location.block != nullptr) {
      EXPECT_EQ(
          std::memcmp(block->data(), location.block->data(), block->size()), 0)
          << "a copy that is not of its slot";
    }
    snapshot.block = std::move(block);
  }
  return snapshot;
}

void TestEngine::ExpectNoSlotLost() {
  // Slots of deleted sessions are free again from the next iteration on.
  const auto in_sessions = sessions.Counts().models[number].sessions_in_slots;
  int taken = 0;
  for (int i = 0; i < options.devices; ++i) {
    StatePool& states = model_of(i).states();
    for (int slot : sessions.ReleasedSlots(number, i)) {
      states.Free(slot - FirstSlotOf(i));
    }
    taken += states.slots() - states.free_slots() - engine_of(i).running() -
             engine_of(i).spare_slots() - engine_of(i).held_slots();
    if (engine_of(i).running() > 0 || engine_of(i).held_slots() > 0 ||
        in_sessions > 0) {
      continue;
    }
    const KeyValueUse use = states.key_values();
    EXPECT_EQ(use.available(), use.blocks);
  }
  EXPECT_EQ(taken, in_sessions);
}

}  // namespace engram

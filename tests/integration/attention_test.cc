// Models with attention layers: their sessions grow by a block every 32 tokens,
// every block is counted, and no request can run out of them half way.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_cat.h"
#include "tests/integration/server_fixture.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::AssertionFailure;
using ::testing::AssertionResult;
using ::testing::AssertionSuccess;
using ::testing::HasSubstr;

constexpr char kHybrid[] = "h3-hybrid";
constexpr char kAttention[] = "attention";
constexpr char kLearned[] = "learned-positions";

constexpr int kBlockTokens = 32;
// One attention layer of 20 keys and 20 values, in floats.
constexpr int64_t kHybridBlockBytes = kBlockTokens * 2 * 20 * 4;
constexpr int kHybridVocabulary = 31;

ServerOptions HybridOptions() {
  return GoldenOptions({{kHybrid, "h3/hybrid_rotary"}});
}

// With room for so many blocks of keys and values.
ServerOptions HybridOptions(int blocks, int slots) {
  ServerOptions options = HybridOptions();
  options.kv_memory = blocks * kHybridBlockBytes;
  options.slots = slots;
  return options;
}

std::string OfModel(const std::string& model) {
  return absl::StrCat("model=\"", model, "\"");
}

int64_t Blocks(int64_t tokens) {
  return (tokens + kBlockTokens - 1) / kBlockTokens;
}

int64_t StateBytes(const v1::ModelInfo& model, int64_t tokens) {
  return model.state_bytes() +
         Blocks(tokens) * kBlockTokens * model.kv_bytes_per_token();
}

// Gauges are set at the end of a step, just after what it says has been heard.
AssertionResult Becomes(const TestServer& server, const std::string& gauge,
                        const std::vector<std::string>& labels, double value) {
  double last = -1;
  if (Eventually([&] {
        last = server.Metrics().Sum(gauge, labels);
        return last == value;
      })) {
    return AssertionSuccess();
  }
  return AssertionFailure() << gauge << " is " << last << ", not " << value;
}

void ExpectState(const TestServer& server, const std::string& id,
                 int64_t tokens, const std::string& tier) {
  const auto session = server.client().GetSession(id);
  ASSERT_TRUE(session.ok()) << session.status();
  const auto model = server.client().GetModel(session->model());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(session->position(), tokens) << id;
  EXPECT_EQ(session->tier(), tier) << id;
  EXPECT_EQ(session->state_bytes(), StateBytes(*model, tokens)) << id;
}

void Feed(const TestServer& server, const std::string& model,
          const std::string& session, int tokens) {
  const Answer answer = server.client().Generate(OnSession(
      TokenTurn(model, RandomIds(tokens, /*vocabulary_size=*/16), 0), session));
  ASSERT_TRUE(answer.status.ok()) << answer.status;
}

v1::GenerateRequest SampledTurn(int prompt_tokens, int max_tokens,
                                uint32_t seed) {
  v1::GenerateRequest request = TokenTurn(
      "", RandomIds(prompt_tokens, kHybridVocabulary, seed), max_tokens);
  request.set_logprobs(1);
  request.mutable_sampling()->set_temperature(0.9f);
  request.mutable_sampling()->set_seed(seed);
  return request;
}

// One that does not end while nobody reads it: its big messages fill the
// network between. It may come to `tokens` in all, so that blocks for them are
// its own.
v1::GenerateRequest HoldingTurn(int64_t tokens) {
  v1::GenerateRequest request = EndlessTurn("");
  request.mutable_stopping()->set_max_tokens(
      static_cast<int>(tokens - request.token_ids().ids_size() + 1));
  request.set_logprobs(20);
  return request;
}

void ExpectSameAnswer(const Answer& answer, const Answer& expected) {
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  ASSERT_TRUE(expected.status.ok()) << expected.status;
  EXPECT_TRUE(answer.in_order);
  EXPECT_EQ(answer.ids(), expected.ids());
  EXPECT_EQ(answer.logprobs(), expected.logprobs());
  EXPECT_EQ(answer.completed->position(), expected.completed->position());
}

// --- What sessions cost.

TEST(Attention, ModelsTellWhatTheirSessionsCost) {
  ServerOptions options =
      GoldenOptions({{kHybrid, "h3/hybrid_rotary"},
                     {"h3", "h3/plain"},
                     {"s4d", "s4d/plain"},
                     {kAttention, "attention/rotary"},
                     {kLearned, "attention/learned_positions"}});
  options.slots = 3;
  options.kv_memory = 1 << 20;
  TestServer server(options);
  struct Expected {
    const char* name;
    const char* family;
    int64_t state_bytes;
    int64_t kv_bytes_per_token;
    int64_t max_positions;
    double kv_blocks;
  };
  // Four bytes for each float of a last hidden state, of 63 taps and 32 complex
  // states per channel and layer, each of these in whole pieces of 256 bytes;
  // of a key and a value per channel and layer.
  const auto padded = [](int64_t floats) {
    return (4 * floats + 255) / 256 * 256;
  };
  // There are no more blocks than three slots of 163 positions can fill.
  for (const Expected& expected :
       {Expected{kHybrid, "h3",
                 padded(20) + padded(2 * 20 * 63) + padded(2 * 20 * 64),
                 4 * 2 * 20, 0, (1 << 20) / 5120},
        Expected{"h3", "h3",
                 padded(21) + padded(2 * 21 * 63) + padded(2 * 21 * 64), 0, 0,
                 0},
        Expected{"s4d", "s4d", padded(27) + padded(2 * 27 * 64), 0, 0, 0},
        Expected{kAttention, "attention", padded(30), 4 * 2 * 2 * 30, 0,
                 (1 << 20) / 15360},
        Expected{kLearned, "attention", padded(28), 4 * 2 * 2 * 28, 163,
                 3 * 6}}) {
    SCOPED_TRACE(expected.name);
    const auto model = server.client().GetModel(expected.name);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ(model->family(), expected.family);
    EXPECT_EQ(model->state_bytes(), expected.state_bytes);
    EXPECT_EQ(model->kv_bytes_per_token(), expected.kv_bytes_per_token);
    EXPECT_EQ(model->max_positions(), expected.max_positions);
    EXPECT_EQ(server.Metrics().Sum("kv_blocks", {OfModel(expected.name)}),
              expected.kv_blocks);
  }
  EXPECT_EQ(server.client().ListModels()->models_size(), 5);
}

TEST(Attention, ModelsWithoutItHaveNoGaugesOfBlocks) {
  ServerOptions options = GoldenOptions({{"h3", "h3/plain"}});
  options.kv_memory = 1;  // nobody asks for more
  TestServer server(options);
  EXPECT_FALSE(server.Metrics().HasFamily("kv_blocks"));
  EXPECT_FALSE(server.Metrics().HasFamily("kv_blocks_used"));
  EXPECT_TRUE(server.client().Generate(TokenTurn("", {1, 2}, 3)).status.ok());
}

TEST(Attention, MemoryForLessThanABlockIsRefusedAtStart) {
  ServerOptions options = HybridOptions();
  options.kv_memory = kHybridBlockBytes - 1;
  const absl::Status status = Server::Start(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("model \"h3-hybrid\": memory for keys and values is "
                        "5119 bytes (--kv-memory)"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("take 5120"));
  options.kv_memory = kHybridBlockBytes;
  TestServer server(options);
  EXPECT_TRUE(
      server.client().Generate(TokenTurn("", {1}, kBlockTokens)).status.ok());
  EXPECT_FALSE(server.client()
                   .Generate(TokenTurn("", {1}, kBlockTokens + 1))
                   .status.ok());
}

// All places of a model's states and blocks, as metrics tell them.
void ExpectTotals(const TestServer& server, const std::string& model,
                  int64_t blocks_used, int64_t slot_bytes, int64_t ram_bytes) {
  const std::string label = OfModel(model);
  EXPECT_TRUE(Becomes(server, "kv_blocks_used", {label},
                      static_cast<double>(blocks_used)));
  EXPECT_TRUE(Becomes(server, "session_state_bytes", {label, "tier=\"slot\""},
                      static_cast<double>(slot_bytes)));
  EXPECT_TRUE(Becomes(server, "session_state_bytes", {label, "tier=\"ram\""},
                      static_cast<double>(ram_bytes)));
}

TEST(Attention, ASessionGrowsByABlockEvery32TokensWhereverItLies) {
  ServerOptions options = GoldenOptions(
      {{kHybrid, "h3/hybrid_rotary"}, {kAttention, "attention/rotary"}});
  options.slots = 2;
  TestServer server(options);
  const TestClient& client = server.client();
  for (const std::string model : {kHybrid, kAttention}) {
    SCOPED_TRACE(model);
    const v1::ModelInfo info = *client.GetModel(model);
    const auto id = [&](const char* name) {
      return absl::StrCat(model, ".", name);
    };
    int fed = 0;
    for (const int tokens : {1, 31, 32, 33, 64, 65, 96}) {
      Feed(server, model, id("one"), tokens - fed);
      fed = tokens;
      ExpectState(server, id("one"), tokens, "slot");
      ExpectTotals(server, model, Blocks(tokens), StateBytes(info, tokens), 0);
    }
    // The last token of an answer is not fed.
    const Answer answer =
        client.Generate(OnSession(TokenTurn(model, {1, 2}, 31), id("one")));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    ExpectState(server, id("one"), 128, "slot");

    ASSERT_TRUE(client.Fork(id("one"), id("fork")).ok());
    ExpectState(server, id("fork"), 128, "ram");
    const int64_t bytes = StateBytes(info, 128);
    ExpectTotals(server, model, 4, bytes, bytes);

    // Others take the slots. The session and its fork share one block.
    Feed(server, model, id("two"), 5);
    Feed(server, model, id("three"), 40);
    ExpectState(server, id("one"), 128, "ram");
    ExpectTotals(server, model, 1 + 2,
                 StateBytes(info, 5) + StateBytes(info, 40), bytes);

    // The pending token and one more, back in a slot.
    Feed(server, model, id("fork"), 1);
    ExpectState(server, id("fork"), 130, "slot");
    ExpectState(server, id("two"), 5, "ram");
    ExpectTotals(server, model, 5 + 2,
                 StateBytes(info, 130) + StateBytes(info, 40),
                 bytes + StateBytes(info, 5));

    for (const char* name : {"fork", "one", "two", "three"}) {
      ASSERT_TRUE(client.DeleteSession(id(name)).ok());
    }
    ExpectTotals(server, model, 0, 0, 0);
  }
}

TEST(Attention, SessionsOfMambaStayFlatWhereThoseOfAttentionGrow) {
  ServerOptions options = GoldenOptions(
      {{kHybrid, "h3/hybrid_rotary"}, {kAttention, "attention/rotary"}});
  options.models.push_back(ZooOptions({kInduction}).models[0]);
  TestServer server(options);
  int64_t fed = 0;
  for (const int tokens : {10, 200, Scaled(2000, 400)}) {
    for (const char* model : {kInduction, kHybrid, kAttention}) {
      Feed(server, model, model, static_cast<int>(tokens - fed));
      ExpectState(server, model, tokens, "slot");
    }
    fed = tokens;
  }
  const auto bytes = [&](const char* session) {
    return server.client().GetSession(session)->state_bytes();
  };
  EXPECT_EQ(bytes(kInduction),
            server.client().GetModel(kInduction)->state_bytes());
  // 30 floats of the last hidden state, which take up 256 bytes of a slot.
  EXPECT_EQ(bytes(kAttention), 256 + Blocks(fed) * kBlockTokens * 480);
  EXPECT_TRUE(Becomes(server, "session_state_bytes", {"tier=\"slot\""},
                      static_cast<double>(bytes(kInduction) + bytes(kHybrid) +
                                          bytes(kAttention))));
  EXPECT_EQ(server.Metrics().Sum("session_state_bytes", {"tier=\"ram\""}), 0);
}

// --- What can never fit is refused at once.

// A server whose sequences may have `limit` tokens, and what is said of one
// more.
struct LengthLimit {
  ServerOptions options;
  int limit;
  std::string says;
};

LengthLimit MemoryLimit() {
  return {HybridOptions(/*blocks=*/8, /*slots=*/2), 8 * kBlockTokens,
          "which take 46080 bytes, limit 40960 (--kv-memory)"};
}

LengthLimit PositionLimit() {
  return {GoldenOptions({{kLearned, "attention/learned_positions"}}), 163,
          "limit 163: the model has learned so many positions"};
}

class NeverFits
    : public ::testing::TestWithParam<std::function<LengthLimit()>> {
 protected:
  static constexpr int kFed = 100;

  NeverFits()
      : limit_(GetParam()()),
        server_(limit_.options),
        client_(server_.client()) {
    Feed(server_, "", "s", kFed);
  }

  // A turn that comes to the limit on a sequence of `before` tokens, or `over`
  // tokens beyond it.
  v1::GenerateRequest Turn(int before, int over) const {
    return TokenTurn("", RandomIds(limit_.limit - before - 9, 16), 10 + over);
  }
  void ExpectRefused(const absl::Status& status) const {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat(limit_.limit + 1, " tokens (")));
    EXPECT_THAT(std::string(status.message()), HasSubstr(limit_.says));
  }
  void ExpectUnharmed() const {
    const auto session = client_.GetSession("s");
    ASSERT_TRUE(session.ok()) << session.status();
    EXPECT_EQ(session->version(), 1);
    EXPECT_EQ(session->position(), kFed);
  }

  const LengthLimit limit_;
  const TestServer server_;
  const TestClient& client_;
};

TEST_P(NeverFits, OfACallWithoutASession) {
  const Answer fits = client_.Generate(Turn(0, 0));
  ASSERT_TRUE(fits.status.ok()) << fits.status;
  EXPECT_EQ(fits.completed->position(), limit_.limit);
  const Answer refused = client_.Generate(Turn(0, 1));
  ExpectRefused(refused.status);
  EXPECT_FALSE(refused.started.has_value());
}

TEST_P(NeverFits, OfASession) {
  const Answer refused = client_.Generate(OnSession(Turn(kFed, 1), "s"));
  ExpectRefused(refused.status);
  EXPECT_THAT(std::string(refused.status.message()),
              HasSubstr("100 of the session"));
  ExpectUnharmed();
  ExpectRefused(client_.Generate(OnSession(Turn(0, 1), "new")).status);
  EXPECT_EQ(client_.GetSession("new").status().code(),
            absl::StatusCode::kNotFound);

  // It goes on as if nothing had been asked.
  const Answer fits = client_.Generate(OnSession(Turn(kFed, 0), "s"));
  ASSERT_TRUE(fits.status.ok()) << fits.status;
  v1::GenerateRequest whole = TokenTurn("", RandomIds(kFed, 16), 10);
  whole.mutable_token_ids()->MergeFrom(Turn(kFed, 0).token_ids());
  EXPECT_EQ(fits.ids(), client_.Generate(whole).ids());
  // Nothing more fits behind its pending token but that.
  v1::GenerateRequest on = OnSession(TokenTurn("", {}, 1), "s");
  ExpectRefused(client_.Generate(on).status);
}

TEST_P(NeverFits, OfAResumedCall) {
  v1::GenerateRequest request = Turn(0, 1);
  for (int i = 0; i < 4; ++i) request.add_received_token_ids(i);
  ExpectRefused(client_.Generate(request).status);
  request = Turn(0, 0);
  for (int i = 0; i < 4; ++i) request.add_received_token_ids(i);
  EXPECT_TRUE(client_.Generate(request).status.ok());
}

TEST_P(NeverFits, OfATurnOfConverse) {
  const auto stream = client_.Converse();
  ASSERT_TRUE(stream->WriteTurn(OnSession(Turn(kFed, 1), "s")));
  ExpectRefused(stream->ReadTurn().status);
  ExpectUnharmed();
}

TEST_P(NeverFits, OfAScore) {
  const auto ids = [](int tokens) { return RandomIds(tokens, 16); };
  EXPECT_TRUE(client_.Score(TokenScore("", ids(limit_.limit))).ok());
  ExpectRefused(client_.Score(TokenScore("", ids(limit_.limit + 1))).status());
  EXPECT_TRUE(
      client_.Score(TokenScore("", ids(limit_.limit - kFed), "s")).ok());
  ExpectRefused(client_.Score(TokenScore("", ids(limit_.limit - kFed + 1), "s"))
                    .status());
  ExpectUnharmed();
}

INSTANTIATE_TEST_SUITE_P(Limits, NeverFits,
                         ::testing::Values(MemoryLimit, PositionLimit),
                         [](const auto& info) {
                           return info.index == 0 ? "Memory" : "Positions";
                         });

TEST(Attention, ASessionThatRamCouldNotHoldIsRefused) {
  ServerOptions options = HybridOptions();
  TestServer probe(options);
  const v1::ModelInfo model = *probe.client().GetModel("");
  constexpr int64_t kOwnBytes = 1024;  // of a session beside its state
  options.session_memory = StateBytes(model, 64) + kOwnBytes;
  TestServer server(options);
  Feed(server, "", "s", 64);
  const Answer refused =
      server.client().Generate(OnSession(TokenTurn("", {1}, 0), "s"));
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(refused.status.message()),
      HasSubstr(absl::StrCat(
          "65 tokens, with which it takes ", StateBytes(model, 65) + kOwnBytes,
          " bytes, limit ", options.session_memory, " (--session-memory)")));
  ExpectState(server, "s", 64, "slot");
  // Without a session nothing is kept.
  EXPECT_TRUE(
      server.client().Generate(SampledTurn(100, 1, /*seed=*/0)).status.ok());
}

// --- What must wait for blocks waits, and then runs.

TEST(Attention, ARequestWaitsForBlocksAndThenRuns) {
  TestServer server(HybridOptions(/*blocks=*/512, /*slots=*/4));
  TestServer plenty(HybridOptions());
  const auto holder = server.client().StartGenerate(HoldingTurn(500 * 32));
  ASSERT_TRUE(holder->ReadStarted());
  // 13 blocks of 12, while slots are free; then one of a single block, which
  // does not overtake it.
  const v1::GenerateRequest wide = SampledTurn(40, 12 * 32 - 38, /*seed=*/1);
  const v1::GenerateRequest narrow = SampledTurn(10, 4, /*seed=*/2);
  const auto first = server.client().StartGenerate(wide);
  ASSERT_TRUE(server.AwaitLoad(/*running=*/1, /*waiting=*/1));
  const auto second = server.client().StartGenerate(narrow);
  ASSERT_TRUE(server.AwaitLoad(1, 2));
  holder->Cancel();
  ExpectSameAnswer(first->ReadAll(), plenty.client().Generate(wide));
  ExpectSameAnswer(second->ReadAll(), plenty.client().Generate(narrow));
}

TEST(Attention, ARequestThatWaitsForBlocksMayBeCancelled) {
  TestServer server(HybridOptions(/*blocks=*/512, /*slots=*/4));
  Feed(server, "", "s", 10);
  const auto holder = server.client().StartGenerate(HoldingTurn(512 * 32));
  ASSERT_TRUE(holder->ReadStarted());
  const auto waiting =
      server.client().StartGenerate(OnSession(TokenTurn("", {1}, 1), "s"));
  ASSERT_TRUE(server.AwaitLoad(1, 1));
  waiting->Cancel();
  ASSERT_TRUE(server.AwaitLoad(1, 0));
  const Answer late = server.client().Generate(
      OnSession(TokenTurn("", {1}, 1), "s"), absl::Milliseconds(100));
  EXPECT_EQ(late.status.code(), absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(server.AwaitLoad(1, 0));
  ExpectState(server, "s", 10, "ram");
  holder->Cancel();
  EXPECT_TRUE(server.client()
                  .Generate(OnSession(TokenTurn("", {1}, 1), "s"))
                  .status.ok());
}

TEST(Attention, ManySessionsShareFewBlocksAndSayWhatTheyWouldWithPlenty) {
  const int sessions = Scaled(16, 8);
  constexpr int kTurns = 3;
  // A session comes to 6 blocks at most.
  TestServer few(HybridOptions(/*blocks=*/12, /*slots=*/4));
  TestServer plenty(HybridOptions());
  const auto turn = [](int session, int number) {
    const uint32_t seed = 100 * session + number;
    return OnSession(SampledTurn(1 + seed % 40, 24, seed),
                     absl::StrCat("session-", session));
  };
  std::vector<std::vector<Answer>> answers(sessions);
  RunAtOnce(sessions, [&](int session) {
    for (int i = 0; i < kTurns; ++i) {
      answers[session].push_back(few.client().Generate(turn(session, i)));
    }
  });
  for (int session = 0; session < sessions; ++session) {
    for (int i = 0; i < kTurns; ++i) {
      SCOPED_TRACE(absl::StrCat("session ", session, " turn ", i));
      ExpectSameAnswer(answers[session][i],
                       plenty.client().Generate(turn(session, i)));
    }
  }
  // The blocks in use are those of the sessions in slots.
  int64_t blocks = 0;
  const auto all = few.client().ListSessions({});
  ASSERT_EQ(all->sessions_size(), sessions);
  for (const v1::Session& session : all->sessions()) {
    if (session.tier() == "slot") blocks += Blocks(session.position());
  }
  EXPECT_TRUE(Becomes(few, "kv_blocks_used", {}, static_cast<double>(blocks)));
  const MetricsPage page = few.Metrics();
  EXPECT_GT(page.Sum("session_evictions_total", {"to=\"ram\""}), 0);
  EXPECT_EQ(page.Sum("session_evictions_total", {"to=\"none\""}), 0);
}

TEST(Attention, ThirtyTwoStreamsShareFourSlotsAndEightBlocks) {
  constexpr int kStreams = 32;
  TestServer few(HybridOptions(/*blocks=*/8, /*slots=*/4));
  TestServer plenty(HybridOptions());
  const auto request = [](int i) {
    return SampledTurn(1 + 37 * i % 150, 1 + 29 * i % 100, i);
  };
  std::vector<Answer> answers(kStreams);
  std::vector<absl::Status> scores(kStreams);
  RunAtOnce(kStreams, [&](int i) {
    answers[i] = few.client().Generate(request(i));
    scores[i] =
        few.client().Score(TokenScore("", RandomIds(8 * i + 1, 16))).status();
  });
  for (int i = 0; i < kStreams; ++i) {
    SCOPED_TRACE(i);
    ExpectSameAnswer(answers[i], plenty.client().Generate(request(i)));
    EXPECT_TRUE(scores[i].ok()) << scores[i];
  }
  EXPECT_TRUE(few.AwaitLoad(0, 0));
  EXPECT_TRUE(Becomes(few, "kv_blocks_used", {}, 0));
  EXPECT_TRUE(Becomes(few, "slots_used", {}, 0));
}

// --- However a request ends, its blocks are free again.

class Reservations : public ServerFixture {
 protected:
  static constexpr int kBlocks = 512;

  Reservations() : ServerFixture(HybridOptions(kBlocks, /*slots=*/4)) {}

  // For which every block is reserved.
  static v1::GenerateRequest Hold() {
    return HoldingTurn(kBlocks * kBlockTokens);
  }
  // Runs one for which so many blocks are reserved, and which ends after a
  // token.
  void ExpectFree(int64_t blocks) const {
    v1::GenerateRequest request = HoldingTurn(blocks * kBlockTokens);
    for (int id = 0; id < kHybridVocabulary; ++id) {
      request.mutable_stopping()->add_stop_token_ids(id);
    }
    const Answer answer = client().Generate(request);
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.tokens.size(), 1u);
  }
  void ExpectAllFree() const { ExpectFree(kBlocks); }
};

TEST_F(Reservations, OfAnAnswerThatStoppedEarlyComeBack) {
  for (int i = 0; i < 3; ++i) ExpectAllFree();
  EXPECT_TRUE(Becomes(server_, "kv_blocks_used", {}, 0));
}

TEST_F(Reservations, OfATurnThatCommittedComeBackButForItsOwn) {
  v1::GenerateRequest request = OnSession(Hold(), "s");
  request.mutable_stopping()->add_stop_token_ids(0);
  const Answer answer = client().Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  const int64_t position = answer.completed->position();
  ExpectFree(kBlocks - Blocks(position));
  ExpectState(server_, "s", position, "slot");
}

TEST_F(Reservations, OfACancelledCallComeBack) {
  const auto running = client().StartGenerate(Hold());
  ASSERT_TRUE(running->ReadStarted());
  running->Cancel();
  EXPECT_EQ(running->ReadAll().status.code(), absl::StatusCode::kCancelled);
  ExpectAllFree();
}

TEST_F(Reservations, OfACallWhoseDeadlinePassedComeBack) {
  const auto running = client().StartGenerate(Hold(), absl::Milliseconds(150));
  ExpectAllFree();
  EXPECT_EQ(running->ReadAll().status.code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST_F(Reservations, OfAFragmentThatWasKeptComeBackButForItsOwn) {
  v1::GenerateRequest request = OnSession(Hold(), "s");
  request.set_keep_partial(true);
  const auto running = client().StartGenerate(request);
  ASSERT_TRUE(running->ReadStarted());
  v1::GenerateResponse token;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(running->Read(&token));
  running->Cancel();
  EXPECT_EQ(running->ReadAll().status.code(), absl::StatusCode::kCancelled);
  ASSERT_TRUE(Eventually([&] { return client().GetSession("s").ok(); }));
  const int64_t position = client().GetSession("s")->position();
  ASSERT_GE(position, 3 + 5 - 1);
  ExpectState(server_, "s", position, "slot");
  EXPECT_TRUE(Becomes(server_, "kv_blocks_used", {},
                      static_cast<double>(Blocks(position))));
  ExpectFree(kBlocks - Blocks(position));
  ExpectState(server_, "s", position, "slot");
  // And what it kept makes room.
  ExpectAllFree();
  ExpectState(server_, "s", position, "ram");
  EXPECT_TRUE(Becomes(server_, "kv_blocks_used", {}, 0));
}

TEST_F(Reservations, OfADeletedSessionComeBack) {
  Feed(server_, "", "s", 100);
  const auto running = client().StartGenerate(
      OnSession(HoldingTurn(kBlocks * kBlockTokens - 100), "s"));
  ASSERT_TRUE(running->ReadStarted());
  ASSERT_TRUE(client().DeleteSession("s").ok());
  ExpectAllFree();
  EXPECT_EQ(running->ReadAll().status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(Becomes(server_, "kv_blocks_used", {}, 0));
}

TEST_F(Reservations, OfACancelledTurnOfConverseComeBack) {
  Feed(server_, "", "s", 10);
  const auto stream = client().Converse();
  ASSERT_TRUE(stream->WriteTurn(
      OnSession(HoldingTurn(kBlocks * kBlockTokens - 10), "s")));
  v1::ConverseResponse response;
  ASSERT_TRUE(stream->Read(&response));
  ASSERT_TRUE(response.has_started());
  ASSERT_TRUE(stream->WriteCancel());
  ExpectAllFree();
  EXPECT_EQ(client().GetSession("s")->position(), 10);
}

}  // namespace
}  // namespace engram
